// One metered call: authorize before the work, settle after it, look at the balance.

import { randomUUID } from "node:crypto";

import { connect, retrying, tokensOf } from "./tollhouse.js";

const {
  TOLLHOUSE_METERING: metering = "127.0.0.1:7003",
  TOLLHOUSE_BILLING: billing = "127.0.0.1:7002",
  TOLLHOUSE_KEY_FILE: keyFile,
  TOLLHOUSE_TOKEN: token,
  API_KEY: apiKey,
  MODEL: model = "swift-1",
} = process.env;

const tokenFor = keyFile ? tokensOf(keyFile) : () => token;
const admission = connect(metering, "metering.v1.AdmissionService", tokenFor);
const accounts = connect(billing, "billing.v1.AccountService", tokenFor);

// Stands for the call of the provider; its answer says what was used.
const work = async () => ({ input: 1200, output: 345 });

async function main() {
  // The name of this work in all services. Whoever repeats a call with it pays once.
  const operation_id = randomUUID();
  const { decision, denial, principal } = await retrying(() =>
    admission.call("Authorize", { operation_id, api_key: apiKey, model, input_tokens: 1200, max_output_tokens: 800 }),
  );
  if (decision !== "DECISION_ALLOWED") {
    console.log(JSON.stringify({ denied: denial.reason, message: denial.message }));
    return 2;
  }

  const { organization_id } = principal;
  let tokens;
  try {
    tokens = await work();
  } catch (error) {
    await retrying(() => admission.call("Cancel", { organization_id, operation_id }));
    throw error;
  }
  const settlement = { organization_id, operation_id, model, tokens };
  const { usage, replayed } = await retrying(() => admission.call("Settle", settlement));
  const { balance } = await retrying(() => accounts.call("GetBalance", { organization_id }));
  console.log(JSON.stringify({ operation_id, cost: usage.cost.value, replayed, posted: balance.posted.value }));
  return 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(`${error.code ?? ""} ${error.details ?? error.message}`.trim());
  process.exitCode = 1;
} finally {
  admission.close();
  accounts.close();
}
