// Check the configuration on stdin, a librechat.yaml, with LibreChat's own schema; print its version and LibreChat's.

import { readFileSync } from "node:fs";

import yaml from "js-yaml";
import { Constants, configSchema } from "librechat-data-provider";

const { version } = configSchema.strict().parse(yaml.load(readFileSync(0, "utf8")));
console.log(JSON.stringify([version, Constants.CONFIG_VERSION]));
