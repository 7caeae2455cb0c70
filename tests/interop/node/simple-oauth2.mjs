import { ClientCredentials } from 'simple-oauth2'

import { refusal, run } from './job.mjs'

function machine(job) {
  return new ClientCredentials({
    client: { id: job.client_id, secret: job.client_secret },
    auth: { tokenHost: job.issuer, tokenPath: '/token', revokePath: '/revoke' },
    // It asks for JSON even where RFC 7009 section 2.2 promises nothing to read.
    http: { json: true },
    options: { authorizationMethod: job.method === 'client_secret_post' ? 'body' : 'header' },
  })
}

async function life(job) {
  const call = async ({ token }, path) => {
    const headers = { Authorization: `${token.token_type} ${token.access_token}` }
    return (await fetch(new URL(path, job.issuer), { headers })).status
  }
  const seen = {}
  let token = await machine(job).getToken({ scope: 'read' })
  seen.token = token.token
  seen.protected = await call(token, '/protected')
  seen.admin_only = await call(token, '/admin-only')
  token = await token.refresh()
  seen.refreshed = token.token
  seen.protected_after_refresh = await call(token, '/protected')
  await token.revoke('access_token')
  seen.protected_after_revocation = await call(token, '/protected')
  return seen
}

async function refusals(job) {
  const told = async (promise) => {
    const { data, ...rest } = await refusal(promise)
    return { ...rest, error: data.payload.error, status: data.res.statusCode }
  }
  const token = await machine(job).getToken()
  await token.refresh()
  return {
    wrong_secret: await told(machine({ ...job, client_secret: 'wrong' }).getToken()),
    foreign_scope: await told(machine(job).getToken({ scope: 'admin' })),
    spent_refresh_token: await told(token.refresh()),
  }
}

await run({ life, refusals })
