import * as client from 'openid-client'

import { privateKey, refusal, run } from './job.mjs'

const insecure = { execute: [client.allowInsecureRequests] } // plain HTTP, on this machine only

async function authentication(job) {
  switch (job.method) {
    case 'client_secret_basic':
      return client.ClientSecretBasic(job.client_secret)
    case 'client_secret_post':
      return client.ClientSecretPost(job.client_secret)
    case 'private_key_jwt':
      return client.PrivateKeyJwt(await privateKey(job))
  }
}

async function configuration(job) {
  const how = await authentication(job)
  if (!job.metadata) {
    const options = { algorithm: 'oauth2', ...insecure }
    return client.discovery(new URL(job.issuer), job.client_id, undefined, how, options)
  }
  const configured = new client.Configuration(job.metadata, job.client_id, undefined, how)
  client.allowInsecureRequests(configured)
  return configured
}

async function dpop(config, job) {
  return job.dpop ? { DPoP: client.getDPoPHandle(config, await client.randomDPoPKeyPair()) } : {}
}

async function life(job) {
  const config = await configuration(job)
  const options = await dpop(config, job)
  const call = async (token, path) => {
    const url = new URL(path, job.issuer)
    const headers = new Headers()
    try {
      const response = await client.fetchProtectedResource(
        config, token.access_token, url, 'GET', undefined, headers, options)
      return response.status
    } catch (error) {
      return error.status // a WWW-Authenticate challenge becomes an exception
    }
  }
  const seen = { nonces_asked_for: 0 }
  config[client.customFetch] = async (...request) => {
    const response = await fetch(...request)
    const asked = response.status >= 400 && response.headers.has('dpop-nonce')
    if (asked) seen.nonces_asked_for += 1 // what the library answers by itself
    return response
  }
  let token = await client.clientCredentialsGrant(config, { scope: 'read' }, options)
  seen.token = token
  seen.protected = await call(token, '/protected')
  seen.admin_only = await call(token, '/admin-only')
  if (token.refresh_token) {
    token = await client.refreshTokenGrant(config, token.refresh_token, {}, options)
    seen.refreshed = token
    seen.protected_after_refresh = await call(token, '/protected')
  }
  if (job.introspect) {
    seen.introspected = await client.tokenIntrospection(config, token.access_token)
  }
  await client.tokenRevocation(config, token.access_token)
  seen.protected_after_revocation = await call(token, '/protected')
  if (job.introspect) {
    seen.introspected_after_revocation = await client.tokenIntrospection(config, token.access_token)
  }
  return seen
}

async function refusals(job) {
  const config = await configuration(job)
  const wrong = await configuration({ ...job, client_secret: 'wrong' })
  const { refresh_token: spent } = await client.clientCredentialsGrant(config)
  await client.refreshTokenGrant(config, spent)
  return {
    wrong_secret: await refusal(client.clientCredentialsGrant(wrong)),
    foreign_scope: await refusal(client.clientCredentialsGrant(config, { scope: 'admin' })),
    spent_refresh_token: await refusal(client.refreshTokenGrant(config, spent)),
  }
}

/** A token for the resources that are asked for (RFC 8707), and the refusal of another one. */
async function resource(job) {
  const config = await configuration(job)
  const asking = (resources) =>
    client.clientCredentialsGrant(
      config, new URLSearchParams(resources.map((resource) => ['resource', resource])))
  return { token: await asking(job.resources), foreign: await refusal(asking([job.foreign])) }
}

await run({ life, refusals, resource })
