// Runs a Node server in WORKERS processes that share its port: `node cluster.mjs SERVER OPTIONS...`
import cluster from "node:cluster";
import { pathToFileURL } from "node:url";

if (cluster.isPrimary) {
  for (let number = 0; number < Number(process.env.WORKERS); number++) cluster.fork();
  // With fewer workers the figures would be wrong, so all end with the first.
  cluster.on("exit", () => process.exit(1));
} else {
  await import(pathToFileURL(process.argv[2]));
}
