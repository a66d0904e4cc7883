/** What a template sees: names, numbers and lists of such. No string from a model folder is ever in one. */

export type ViewValue = string | number | boolean | readonly ViewValue[] | View;
export interface View {
  readonly [name: string]: ViewValue;
}
