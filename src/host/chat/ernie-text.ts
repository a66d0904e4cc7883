/**
 * The template of the post-trained text models (0.3B, 21B-A3B, 300B-A47B):
 *
 *     prompt := CLS turn* ["Assistant: "]      system := content "\n"      user := "User: " content "\n"      assistant := "Assistant: " content SEP
 *
 * No system prompt by default, no tool role, no bos.
 */

import { type ChatTemplate, checkMessages, SegmentList } from "./messages.js";

const CLS = "<|begin_of_sentence|>";
const SEP = "<|end_of_sentence|>";

export const ernieText: ChatTemplate = (messages, { addGenerationPrompt = true, answerIds } = {}) => {
  checkMessages(messages, ["system", "user", "assistant"]);
  const prompt = new SegmentList().template(CLS);
  for (const { role, content } of messages) {
    if (role === "system") prompt.user(content).template("\n");
    else if (role === "user") prompt.template("User: ").user(content).template("\n");
    else {
      prompt.template("Assistant: ");
      const ids = answerIds?.(content);
      if (ids) prompt.tokens(ids);
      else prompt.user(content);
      prompt.template(SEP);
    }
  }
  if (addGenerationPrompt) prompt.template("Assistant: ");
  return prompt.finish();
};
