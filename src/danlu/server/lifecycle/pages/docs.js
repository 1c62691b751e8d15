// Lists the operations of openapi.json. Every text goes in as text, never as HTML.
"use strict";

const place = (id) => document.getElementById(id);
// The page is in the user's language, and so are these.
const word = place("routes").dataset;

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

async function load(key) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const answer = await fetch("openapi.json", { headers });
  place("key").hidden = answer.status !== 401;
  if (!answer.ok) {
    const body = await answer.json().catch(() => null);
    const asks = answer.status === 401 && !key;
    place("trouble").textContent = asks ? "" : body?.error?.message ?? `HTTP ${answer.status}`;
    return;
  }
  place("trouble").textContent = "";
  show(await answer.json());
}

function show(document_) {
  const byTag = new Map();
  for (const [path, operations] of Object.entries(document_.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const tag = operation.tags?.[0] ?? word.other;
      if (!byTag.has(tag)) byTag.set(tag, []);
      byTag.get(tag).push(entry(document_, path, method, operation));
    }
  }
  const routes = place("routes");
  routes.replaceChildren();
  for (const [tag, entries] of byTag) routes.append(element("h2", tag), ...entries);
}

function entry(document_, path, method, operation) {
  const details = element("details");
  const summary = element("summary");
  summary.append(element("span", method.toUpperCase(), "method"), element("code", path));
  const [first] = (operation.description ?? operation.summary ?? "").split("\n");
  summary.append(element("span", first, "about"));
  details.append(summary);
  const body = operation.requestBody?.content?.["application/json"]?.schema;
  if (body) {
    details.append(fields(document_, body));
    details.append(element("pre", example(path, document_, body)));
  } else {
    details.append(element("pre", `curl ${address(path)}`));
  }
  return details;
}

function address(path) {
  return new URL(path.slice(1), document.baseURI).href;
}

function resolved(document_, schema) {
  if (!schema?.$ref) return schema ?? {};
  return schema.$ref.slice(2).split("/").reduce((at, step) => at[step], document_);
}

function fields(document_, schema) {
  const table = element("table");
  const whole = resolved(document_, schema);
  for (const [name, field] of Object.entries(whole.properties ?? {})) {
    const row = element("tr");
    const cell = element("td");
    cell.append(element("code", name));
    row.append(cell);
    row.append(element("td", whole.required?.includes(name) ? word.needed : ""));
    row.append(element("td", kind(document_, field)));
    row.append(element("td", field.description ?? ""));
    table.append(row);
  }
  return table;
}

function kind(document_, field) {
  const whole = resolved(document_, field);
  const several = whole.anyOf ?? whole.oneOf;
  if (several) return several.map((one) => kind(document_, one)).join(word.or);
  if (whole.enum) return whole.enum.map((one) => JSON.stringify(one)).join(", ");
  if (whole.type === "array") return word.list.replace("{kind}", kind(document_, whole.items));
  return whole.type ?? word.anything;
}

function example(path, document_, schema) {
  const whole = resolved(document_, schema);
  const body = {};
  for (const name of whole.required ?? []) body[name] = `<${name}>`;
  const text = JSON.stringify(whole.examples?.[0] ?? body);
  return `curl ${address(path)} -H 'content-type: application/json' -d '${text}'`;
}

place("key").addEventListener("submit", (event) => {
  event.preventDefault();
  load(place("key-value").value);
});
load("");
