/** Elements by one function. Text goes in as text nodes only: nothing here takes HTML. */

type Child = Node | string | null | undefined;

export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: { readonly [name: string]: string } = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  for (const child of children) if (child !== null && child !== undefined) element.append(child);
  return element;
}

/** A table whose rows become cards on a narrow screen: each cell knows its column's name. Columns with `~` before their name hold text of any length. */
export function table(columns: readonly string[], rows: readonly (readonly Child[])[], className = ""): HTMLTableElement {
  return el(
    "table",
    { class: className },
    el("thead", {}, el("tr", {}, ...columns.map((name) => el("th", { scope: "col" }, label(name))))),
    el("tbody", {}, ...rows.map((cells) => el("tr", {}, ...cells.map((cell, i) => tableCell(columns[i] ?? "", cell))))),
  );
}

function tableCell(column: string, cell: Child): HTMLElement {
  return el("td", { "data-label": label(column), class: column.startsWith("~") ? "text" : "number" }, cell);
}

function label(column: string): string {
  return column.replace(/^~/, "");
}
