// The same request from a shell.

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

export const PICTURE_FILE = "request.bin";

/** A curl line that sends `request` to `url`: JSON in the line itself, a binary body from a file beside it; a key from $API_KEY. */
export function curlLine(url, request, { needsKey = false } = {}) {
  const begin = `curl -s ${quoted(url)}${needsKey ? ' -H "X-API-Key: $API_KEY"' : ""}`;
  if (request.body) {
    const header = `-H 'Inference-Header-Content-Length: ${request.jsonLength}'`;
    return `${begin} -H 'Content-Type: application/octet-stream' ${header} --data-binary @${PICTURE_FILE}`;
  }
  return `${begin} -H 'Content-Type: application/json' --data-raw ${quoted(request.text ?? "")}`;
}
