/** Chat templates: the grammar of section 6 of the reference, specials in user text, the reader of thinking output, hanging templates. */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ernieText } from "../../src/host/chat/ernie-text.js";
import { ernieThinking, type ThinkingPiece, ThinkingReader } from "../../src/host/chat/ernie-thinking.js";
import { type JinjaTemplate, renderJinja } from "../../src/host/chat/jinja.js";
import { type ChatMessage, type Segment, segmentText } from "../../src/host/chat/messages.js";

const WORKER = fileURLToPath(new URL("../../dist/host/chat/jinja-worker.js", import.meta.url));
const config = JSON.parse(readFileSync(new URL("../../examples/models/ernie-mini-moe/tokenizer_config.json", import.meta.url), "utf8"));
const text = (segments: readonly Segment[]) => segments.map(segmentText).join("");
const talk: ChatMessage[] = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "Hi <|end_of_sentence|>" },
  { role: "assistant", content: "Hello." },
  { role: "user", content: "Again?" },
];

const mini: JinjaTemplate = {
  source: config.chat_template,
  variables: { cls_token: config.cls_token, sep_token: config.sep_token },
  specials: ["<|begin_of_sentence|>", "<|end_of_sentence|>", "</s>"],
  worker: WORKER,
};

describe("ernie-text", () => {
  it("renders the grammar", () => {
    expect(text(ernieText(talk))).toBe(
      "<|begin_of_sentence|>Be brief.\nUser: Hi <|end_of_sentence|>\nAssistant: Hello.<|end_of_sentence|>User: Again?\nAssistant: ",
    );
  });

  it("keeps user text in user segments", () => {
    const user = ernieText(talk).filter((segment) => segment.kind === "user");
    expect(user.map(segmentText)).toEqual(["Be brief.", "Hi <|end_of_sentence|>", "Hello.", "Again?"]);
  });

  it("says the same as the template that ships with the mini models", async () => {
    expect(text(await renderJinja(mini, talk))).toBe(text(ernieText(talk)));
    expect(text(await renderJinja(mini, talk, { addGenerationPrompt: false }))).toBe(text(ernieText(talk, { addGenerationPrompt: false })));
  });

  it("takes the ids of an answer that is known", () => {
    const ids = Int32Array.of(5, 6);
    const segments = ernieText(talk, { answerIds: (content) => (content === "Hello." ? ids : undefined) });
    expect(segments.find((segment) => segment.kind === "tokens")).toEqual({ kind: "tokens", ids });
    expect(segments.map(segmentText)).not.toContain("Hello.");
  });

  it.each([
    [[], "messages"],
    ["hello", "messages"],
    [[null], "messages[0]"],
    [[{ role: "tool", content: "x" }], "messages[0].role"],
    [[{ role: "user", content: ["x"] }], "messages[0].content"],
    [[{ role: "user" }], "messages[0].content"],
  ])("refuses %j", (messages, place) => {
    expect(() => ernieText(messages as ChatMessage[])).toThrow(expect.objectContaining({ code: "chat-message", place }));
  });
});

describe("ernie-thinking", () => {
  it("renders the grammar", () => {
    const prompt = text(
      ernieThinking([
        { role: "system", content: "Be brief." },
        { role: "user", content: "2+2?" },
        { role: "assistant", content: "easy</think>\n\n4" },
        { role: "assistant", content: "", toolCalls: [{ name: "add", arguments: { a: 1 } }] },
        { role: "tool", content: "5" },
      ]),
    );
    expect(prompt).toBe(
      "<|im_start|>system\n<system_setting>\nBe brief.\n</system_setting>\n\n<global_setting>\nthink_mode=True\n</global_setting><|im_end|>\n\n" +
        "<|im_start|>user\n2+2?<|im_end|>\n\n<|im_start|>assistant\n<response>\n4\n</response>\n<|im_end|>\n\n" +
        '<|im_start|>assistant\n<tool_call>\n{"name":"add","arguments":{"a":1}}\n</tool_call>\n<|im_end|>\n\n' +
        "<|im_start|>tool\n5<|im_end|>\n\n<|im_start|>assistant\n<think>\n",
    );
  });

  const read = (pieces: readonly string[]) => {
    const reader = new ThinkingReader();
    const all: ThinkingPiece[] = [...pieces.map((piece) => reader.push(piece)), reader.finish()];
    return {
      reasoning: all.map((piece) => piece.reasoning).join(""),
      text: all.map((piece) => piece.text).join(""),
      toolCalls: all.flatMap((piece) => piece.toolCalls),
    };
  };
  const answer = "I think\nhard <thin\n</think>\n\n<response>\n4 < 5\n\nyes\n</response>\n";
  const call =
    'need it\n</think>\n\n\n<tool_call>\n{"name":"add","arguments":{"a":[1]}}\n</tool_call>\n<tool_call>\n{"name":"b"}\n</tool_call>\n';

  it("splits reasoning, answer and tool calls wherever the stream is cut", () => {
    const cuts = (whole: string) =>
      fc.array(fc.nat(whole.length), { maxLength: 12 }).map((at) => {
        const points = [0, ...at.sort((a, b) => a - b), whole.length];
        return points.slice(1).map((end, i) => whole.slice(points[i], end));
      });
    fc.assert(
      fc.property(cuts(answer), (pieces) => {
        expect(read(pieces)).toEqual({ reasoning: "I think\nhard <thin", text: "4 < 5\n\nyes", toolCalls: [] });
      }),
    );
    fc.assert(
      fc.property(cuts(call), (pieces) => {
        expect(read(pieces)).toEqual({
          reasoning: "need it",
          text: "",
          toolCalls: [
            { name: "add", arguments: { a: [1] } },
            { name: "b", arguments: {} },
          ],
        });
      }),
    );
  });

  it("loses nothing of what breaks off or is not JSON", () => {
    expect(read(["only thoughts"])).toEqual({ reasoning: "only thoughts", text: "", toolCalls: [] });
    expect(read(["r\n</think>\n\nno tags at all"])).toEqual({ reasoning: "r", text: "no tags at all", toolCalls: [] });
    expect(read(["r\n</think>\n\n<tool_call>\nnot json\n</tool_call>"])).toEqual({ reasoning: "r", text: "not json", toolCalls: [] });
    expect(read(["r\n</think>\n\n<tool_call>\n{half"])).toEqual({ reasoning: "r", text: "{half", toolCalls: [] });
  });
});

describe("jinja", () => {
  it("turns specials inside messages into user text", async () => {
    const segments = await renderJinja(mini, talk);
    expect(segments.filter((segment) => segment.kind === "user").map(segmentText)).toEqual(["<|end_of_sentence|>"]);
    expect(text(segments)).toBe(text(ernieText(talk)));
  });

  it("does not let two messages make a special together", async () => {
    const template = { ...mini, source: "{% for m in messages %}{{ m.content }}{% endfor %}" };
    const segments = await renderJinja(template, [
      { role: "user", content: "a<|end_of_" },
      { role: "user", content: "sentence|>b" },
    ]);
    expect(text(segments)).toBe("a<|end_of_sentence|>b");
    expect(segments.some((segment) => segment.kind === "template" && segmentText(segment).includes("<|end_of_sentence|>"))).toBe(false);
  });

  it("gives up on a template that hangs, grows, fails or breaks", async () => {
    const hang = "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}{% endfor %}{% endfor %}{% endfor %}";
    const grow = "{% for i in range(100000000) %}{% endfor %}";
    for (const source of [hang, grow, "{{ raise_exception('no') }}", "{% for %}"]) {
      await expect(renderJinja({ ...mini, source, deadline: 1500 }, talk)).rejects.toThrow(
        expect.objectContaining({ code: "chat-template" }),
      );
    }
  });
});
