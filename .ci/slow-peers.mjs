// Slow clients that slowhttptest doesn't have: node .ci/slow-peers.mjs idle|uploads PORT COUNT [TOKEN]
// They stay until this process is ended.

import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const [kind, port, count, bearer] = process.argv.slice(2);
const UPLOAD = `POST /v1/ordenes/7/imagenes HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${bearer}\r\n`
  + "content-type: multipart/form-data; boundary=b\r\ncontent-length: 1000000\r\n\r\n--b\r\n"
  + 'content-disposition: form-data; name="imagen"; filename="a.jpg"\r\n\r\n';

for (let begun = 0; begun < Number(count); begun += 1) {
  // More at once than wait to be accepted would be lost on the way.
  if (begun % 100 === 99) await sleep(50);
  const socket = connect(Number(port), "127.0.0.1").on("error", () => {}).on("data", () => {});
  if (kind !== "uploads") continue;
  socket.write(UPLOAD);
  const trickle = setInterval(() => socket.write("x"), 1000);
  socket.on("close", () => clearInterval(trickle));
}
