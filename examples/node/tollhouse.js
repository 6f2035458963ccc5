// Clients of Tollhouse's services: made from the descriptor set, authenticated with a service's key or a token.

import { createPrivateKey, sign } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import grpc from "@grpc/grpc-js";
import { loadFileDescriptorSetFromBuffer } from "@grpc/proto-loader";

const TOKEN_LIFETIME_S = 300;
const DEADLINE_MS = 5_000;
const ATTEMPTS_MAX = 5;
const FIRST_PAUSE_MS = 100;

// Codes after which a call may have been carried out or not. Repeating it with the same operation id is safe.
const UNCERTAIN = new Set([grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED]);

// @grpc/proto-loader cannot parse the options in the .proto files, so it gets them as a descriptor set. Amounts are
// decimal texts; counts of tokens are 64-bit integers, as numbers here.
const SET = process.env.TOLLHOUSE_DESCRIPTORS ?? new URL("../../protos/tollhouse.binpb", import.meta.url);
const api = grpc.loadPackageDefinition(
  loadFileDescriptorSetFromBuffer(readFileSync(SET), { longs: Number, enums: String, defaults: true, oneofs: true }),
).tollhouse;

/** Returns a function that gives a token for an audience such as `billing.tollhouse`, renewed at half its life. */
export function tokensOf(keyFile) {
  const { issuer, subject, key } = JSON.parse(readFileSync(keyFile, "utf8"));
  const privateKey = createPrivateKey({ key, format: "jwk" });
  const kept = new Map();
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return (audience) => {
    const now = Math.floor(Date.now() / 1000);
    const known = kept.get(audience);
    if (known && now < known.renew) return known.token;
    const header = { alg: "EdDSA", typ: "caller+jwt", kid: key.kid };
    const claims = { iss: issuer, sub: subject, aud: [audience], iat: now, exp: now + TOKEN_LIFETIME_S };
    const signed = `${part(header)}.${part(claims)}`;
    const token = `${signed}.${sign(null, Buffer.from(signed), privateKey).toString("base64url")}`;
    kept.set(audience, { token, renew: now + TOKEN_LIFETIME_S / 2 });
    return token;
  };
}

/** Returns a client of one service, such as `metering.v1.AdmissionService`; `call` gives the response or throws. */
export function connect(target, service, tokenFor) {
  const [context, version, name] = service.split(".");
  const client = new api[context][version][name](target, grpc.credentials.createInsecure());
  const call = (method, request) =>
    new Promise((resolve, reject) => {
      const metadata = new grpc.Metadata();
      metadata.set("authorization", `Bearer ${tokenFor(`${context}.tollhouse`)}`);
      client[method](request, metadata, { deadline: Date.now() + DEADLINE_MS }, (error, response) =>
        error ? reject(error) : resolve(response),
      );
    });
  return { call, close: () => client.close() };
}

/** Makes a call again, with growing pauses, while nobody knows whether it was carried out. */
export async function retrying(call) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await call();
    } catch (error) {
      if (!UNCERTAIN.has(error.code) || attempt === ATTEMPTS_MAX) throw error;
      await sleep(FIRST_PAUSE_MS * 2 ** (attempt - 1) * (0.5 + Math.random()));
    }
  }
}
