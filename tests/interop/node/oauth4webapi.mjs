import * as oauth from 'oauth4webapi'

import { privateKey, refusal, run } from './job.mjs'

const insecure = { [oauth.allowInsecureRequests]: true } // plain HTTP, on this machine only

async function authentication(job) {
  switch (job.method) {
    case 'client_secret_basic':
      return oauth.ClientSecretBasic(job.client_secret)
    case 'client_secret_post':
      return oauth.ClientSecretPost(job.client_secret)
    case 'private_key_jwt':
      return oauth.PrivateKeyJwt(await privateKey(job))
  }
}

async function server(job) {
  if (job.metadata) return job.metadata
  const issuer = new URL(job.issuer)
  const response = await oauth.discoveryRequest(issuer, { algorithm: 'oauth2', ...insecure })
  return oauth.processDiscoveryResponse(issuer, response)
}

/** The requests of one client: each is sent, its answer checked, and read. */
async function machine(job) {
  const as = await server(job)
  const client = { client_id: job.client_id }
  const how = await authentication(job)
  const options = { ...insecure }
  if (job.dpop) options.DPoP = oauth.DPoP(client, await oauth.generateKeyPair('ES256'))

  // Once more with the server's nonce, if it asked for one (RFC 9449 section 8).
  const patiently = async (ask) => {
    try {
      return await ask()
    } catch (error) {
      if (!oauth.isDPoPNonceError(error)) throw error
      own.nonces_asked_for += 1
      return ask()
    }
  }
  const own = {
    as,
    options,
    nonces_asked_for: 0,
    getToken: (parameters = {}) =>
      patiently(async () => oauth.processClientCredentialsResponse(
        as, client,
        await oauth.clientCredentialsGrantRequest(as, client, how, parameters, options))),
    refresh: (token) =>
      patiently(async () => oauth.processRefreshTokenResponse(
        as, client, await oauth.refreshTokenGrantRequest(as, client, how, token, options))),
    introspect: async (token) =>
      oauth.processIntrospectionResponse(
        as, client, await oauth.introspectionRequest(as, client, how, token, insecure)),
    revoke: async (token) =>
      oauth.processRevocationResponse(
        await oauth.revocationRequest(as, client, how, token, insecure)),
    async call(token, path) {
      const url = new URL(path, job.issuer)
      try {
        const response = await patiently(() => oauth.protectedResourceRequest(
          token.access_token, 'GET', url, undefined, undefined, options))
        return response.status
      } catch (error) {
        return error.status // a WWW-Authenticate challenge becomes an exception
      }
    },
  }
  return own
}

async function life(job) {
  const own = await machine(job)
  const seen = {}
  let token = await own.getToken({ scope: 'read' })
  seen.token = token
  seen.protected = await own.call(token, '/protected')
  seen.admin_only = await own.call(token, '/admin-only')
  if (token.refresh_token) {
    token = await own.refresh(token.refresh_token)
    seen.refreshed = token
    seen.protected_after_refresh = await own.call(token, '/protected')
  }
  if (job.introspect) seen.introspected = await own.introspect(token.access_token)
  await own.revoke(token.access_token)
  seen.protected_after_revocation = await own.call(token, '/protected')
  if (job.introspect) seen.introspected_after_revocation = await own.introspect(token.access_token)
  seen.nonces_asked_for = own.nonces_asked_for
  return seen
}

async function refusals(job) {
  const own = await machine(job)
  const wrong = await machine({ ...job, client_secret: 'wrong' })
  const { refresh_token: spent } = await own.getToken()
  await own.refresh(spent)
  return {
    wrong_secret: await refusal(wrong.getToken()),
    foreign_scope: await refusal(own.getToken({ scope: 'admin' })),
    spent_refresh_token: await refusal(own.refresh(spent)),
  }
}

/** A token for the resources that are asked for (RFC 8707), and the refusal of another one. */
async function resource(job) {
  const own = await machine(job)
  const asking = (resources) => own.getToken(resources.map((resource) => ['resource', resource]))
  return { token: await asking(job.resources), foreign: await refusal(asking([job.foreign])) }
}

/** What a resource server finds that uses this library (RFC 9068 section 4, RFC 9449 section 7). */
async function validate(job) {
  const own = await machine(job)
  const { access_token: token } = await own.getToken()
  let request
  await oauth.protectedResourceRequest(token, 'GET', new URL(job.audience), undefined, undefined, {
    ...own.options,
    [oauth.customFetch]: async (url, options) => {
      request = new Request(url, options)
      return new Response()
    },
  })
  const reading = (audience) => oauth.validateJwtAccessToken(own.as, request, audience, insecure)
  return { claims: await reading(job.audience), elsewhere: await refusal(reading(job.foreign)) }
}

/** Where the resource says that tokens for it come from (RFC 9728). */
async function protected_resource({ resource: text }) {
  const resource = new URL(text)
  const response = await oauth.resourceDiscoveryRequest(resource, insecure)
  return oauth.processResourceDiscoveryResponse(resource, response)
}

await run({ life, refusals, resource, validate, protected_resource })
