import { createRemoteJWKSet, jwtVerify } from 'jose'

import { refusal, run } from './job.mjs'

/** What a resource server finds that uses this library (RFC 9068 section 4). */
async function validate({ issuer, access_token: token, audience, foreign }) {
  const metadata = await (await fetch(`${issuer}/.well-known/oauth-authorization-server`)).json()
  const keys = createRemoteJWKSet(new URL(metadata.jwks_uri))
  const reading = (text, whom) =>
    jwtVerify(text, keys, {
      issuer: metadata.issuer,
      audience: whom,
      typ: 'at+jwt',
      requiredClaims: ['exp', 'iat', 'jti', 'sub', 'client_id'],
    })
  const { payload, protectedHeader } = await reading(token, audience)
  const [header, claims, signature] = token.split('.')
  const changed = [header, claims, (signature[0] === 'A' ? 'B' : 'A') + signature.slice(1)]
  return {
    claims: payload,
    header: protectedHeader,
    elsewhere: await refusal(reading(token, foreign)),
    forged: await refusal(reading(changed.join('.'), audience)),
  }
}

await run({ validate })
