/** T4 1.0.0 as a JSON Schema, in the strict reading: only what every reader of the format understands. */

const number = { type: "number", minimum: 0 };

export const T4_SCHEMA = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  type: "object",
  required: ["schema_version", "results"],
  additionalProperties: false,
  properties: {
    schema_version: { type: "string", pattern: "^1\\.[0-9]+\\.[0-9]+$" },
    metadata: { type: "object" },
    results: {
      type: "array",
      minItems: 1,
      items: {
        type: "object",
        required: ["configuration", "times", "invalidity", "correctness", "measurements", "objectives"],
        additionalProperties: false,
        properties: {
          timestamp: { type: "string", pattern: "^\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d\\.\\d+\\+00:00$" },
          configuration: { type: "object", minProperties: 1, additionalProperties: { type: ["number", "string", "boolean"] } },
          times: {
            type: "object",
            required: ["compilation", "framework", "search_algorithm", "validation", "runtimes"],
            properties: {
              compilation: number,
              framework: number,
              search_algorithm: number,
              validation: number,
              runtimes: { type: "array", items: number },
            },
          },
          invalidity: { enum: ["timeout", "compile", "runtime", "correctness", "constraints", "correct"] },
          correctness: { type: "number", minimum: 0, maximum: 1 },
          measurements: {
            type: "array",
            items: {
              type: "object",
              required: ["name", "value", "unit"],
              properties: { name: { type: "string" }, value: { type: ["number", "string", "array"] }, unit: { type: "string" } },
            },
          },
          objectives: { type: "array", minItems: 1, items: { type: "string" } },
        },
      },
    },
  },
} as const;
