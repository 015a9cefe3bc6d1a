// Says hello, and which copy of the app says it. No dependencies.
import { createServer } from "node:http";

const port = Number(process.env.PORT ?? 8080);
const { PONTOON_RELEASE: release = "no release", PONTOON_SERVO: servo = "no servo", PONTOON_HOST: host = "this machine" } = process.env;

const server = createServer((request, response) => {
  const path = request.url.split("?", 1)[0];
  if (path !== "/" && path !== "/up") {
    response.writeHead(404, { "content-type": "text/plain" }).end("not found\n");
    return;
  }
  response.writeHead(200, { "content-type": "text/plain" });
  response.end(path === "/up" ? "up\n" : `Hello from Node.js ${process.version}: release ${release}, servo ${servo}, host ${host}\n`);
});
// Longer than a balancer keeps an idle connection, so that it is never closed under a request on its way.
server.keepAliveTimeout = 120_000;

server.listen(port, "0.0.0.0", () => console.log(`listening on port ${port}`));

process.on("SIGTERM", () => {
  console.log("stopping: no new connections, requests in flight may end");
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
