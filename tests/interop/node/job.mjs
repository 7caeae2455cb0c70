// What every script here does: read a job from standard input, do it, print what came of it.

import { text } from 'node:stream/consumers'
import { inspect } from 'node:util'

/**
 * Run the flow that the job names.
 *
 * @param {Record<string, (job: object) => Promise<unknown>>} flows what the script can do
 */
export async function run(flows) {
  const job = JSON.parse(await text(process.stdin))
  try {
    process.stdout.write(JSON.stringify(await flows[job.flow](job)))
  } catch (error) {
    process.stderr.write(inspect(error, { depth: 1 }))
    process.exitCode = 1
  }
}

/** What a promise was rejected with; a promise that is kept is a mistake. */
export async function refusal(promise) {
  let kept
  try {
    kept = await promise
  } catch (error) {
    const { code, data, error: oauthError, status } = error
    return { code, data, error: oauthError, status }
  }
  throw new Error(`not refused: ${JSON.stringify(kept)}`)
}

/** The client's private key, which the job holds as a JWK. */
export async function privateKey({ private_jwk: jwk }) {
  const algorithm =
    jwk.kty === 'EC'
      ? { name: 'ECDSA', namedCurve: jwk.crv }
      : { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }
  const key = await crypto.subtle.importKey('jwk', jwk, algorithm, false, ['sign'])
  return { key, kid: jwk.kid }
}
