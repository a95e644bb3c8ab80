// The API's page: draws /openapi.json. Everything comes from this node; text goes in as text, never as markup.

const METHODS = ["get", "post", "patch", "delete"];

/** An element with children: elements, or text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** `Stream`, `Stream[]`, `string | null`: a schema in a word. */
export function nameOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.allOf) return nameOf(schema.allOf[0]);
  if (schema.anyOf) return schema.anyOf.map(nameOf).join(" | ");
  if (schema.type === "array") return `${nameOf(schema.items)}[]`;
  if (schema.properties?.data) return `Page of ${nameOf(schema.properties.data.items)}`;
  return schema.type ?? "";
}

/** The named schema that a body is made of, through pages and alternatives. */
export function bodyOf(schema, all) {
  if (!schema) return null;
  if (schema.$ref) return all[schema.$ref.split("/").pop()] ?? null;
  if (schema.properties?.data) return bodyOf(schema.properties.data.items, all);
  return schema.properties ? schema : null;
}

function fields(schema, all) {
  const body = bodyOf(schema, all);
  if (!body) return "";
  const rows = Object.entries(body.properties).map(([name, field]) => make("tr", {},
    make("td", {}, make("code", {}, name), (body.required ?? []).includes(name) ? "" : make("span", { class: "hint" }, " may be left out")),
    make("td", {}, nameOf(field)),
    make("td", {}, field.description ?? "")));
  return make("table", {}, make("tbody", {}, ...rows));
}

/** One call of an operation, for a terminal. */
export function curlOf(method, path, operation, origin) {
  const parts = [`curl -s ${origin}${path.replaceAll("{", "$").replaceAll("}", "").replaceAll(/\$(\w+)/g, (_, name) => `$${name.toUpperCase()}`)}`];
  if (method !== "get") parts.push(`-X ${method.toUpperCase()}`);
  if (!operation.security) parts.push('-H "Authorization: Bearer $KEY"');
  if (operation.requestBody) parts.push("-d '{...}'");
  return parts.join(" ");
}

function operationCard(method, path, operation, all) {
  const body = operation.requestBody?.content["application/json"].schema;
  const responses = Object.entries(operation.responses);
  const parts = [
    make("summary", {}, make("span", { class: `method ${method}` }, method.toUpperCase()), make("code", {}, path), make("span", { class: "hint" }, operation.summary)),
    make("pre", {}, curlOf(method, path, operation, location.origin)),
  ];
  const parameters = (operation.parameters ?? []).filter((parameter) => parameter.in !== "path");
  if (parameters.length > 0) {
    const rows = parameters.map((parameter) => make("tr", {},
      make("td", {}, make("code", {}, parameter.name)), make("td", {}, parameter.in), make("td", {}, parameter.description ?? "")));
    parts.push(make("h3", {}, "Parameters"), make("table", {}, make("tbody", {}, ...rows)));
  }
  if (body) parts.push(make("h3", {}, `Body: ${nameOf(body)}`), fields(body, all));
  for (const [status, response] of responses) {
    const content = response.content ?? {};
    const schema = (content["application/json"] ?? content["application/problem+json"])?.schema;
    const isGood = status < "300";
    parts.push(make("h3", {}, `${status}${isGood && schema ? `: ${nameOf(schema)}` : ""}`), make("p", { class: "hint" }, response.description));
    if (isGood && schema) parts.push(fields(schema, all));
  }
  return make("details", { id: operation.operationId, class: "card operation" }, ...parts);
}

function draw(openapi) {
  document.querySelector("#about").textContent = openapi.info.description;
  const all = openapi.components.schemas;
  const groups = new Map();
  for (const [path, methods] of Object.entries(openapi.paths)) {
    for (const method of METHODS.filter((name) => methods[name])) {
      const tag = methods[method].tags?.[0] ?? "";
      groups.set(tag, [...(groups.get(tag) ?? []), operationCard(method, path, methods[method], all)]);
    }
  }
  const target = document.querySelector("#operations");
  for (const [tag, cards] of groups) target.append(make("h2", {}, tag), ...cards);
  document.querySelector("#state").textContent = `${openapi.info.title} ${openapi.info.version}, OpenAPI ${openapi.openapi}`;
  // A link to one operation opens it.
  const linked = document.getElementById(location.hash.slice(1));
  if (linked) linked.open = true;
}

if (typeof document !== "undefined") {
  fetch("/openapi.json").then((response) => response.json()).then(draw).catch((error) => {
    document.querySelector("#state").textContent = `The document cannot be read: ${error.message}. Is the server still there?`;
  });
}
