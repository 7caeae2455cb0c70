// oidc-provider (npm): client credentials, access tokens as HS256 JWTs for one resource server.
// With MONGODB_URL its adapter is MongoDB, where the clients are too; else its own in memory.

import { createSecretKey, generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

// Installed in .bench/node, which is the working directory.
const require = createRequire(`${process.cwd()}/`);
const { default: Provider } = await import(require.resolve('oidc-provider'));

const RESOURCE = 'https://bench.example';
const key = createSecretKey(Buffer.from(process.env.BENCH_SECRET_KEY));

const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });

const configuration = {
  jwks: { keys: [privateKey.export({ format: 'jwk' })] }, // wanted at the start, used for no token here
  clientDefaults: {
    grant_types: ['client_credentials'],
    response_types: [],
    redirect_uris: [],
  },
  scopes: ['read', 'write'],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => RESOURCE,
      getResourceServerInfo: () => ({
        scope: 'read write',
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'HS256', key } },
      }),
    },
  },
  ttl: { ClientCredentials: 15 * 60 },
};

if (process.env.MONGODB_URL) {
  const { MongoClient } = require('mongodb');
  const mongo = new MongoClient(process.env.MONGODB_URL, {
    writeConcern: { w: 'majority', journal: true },
    readConcern: { level: 'majority' },
  });
  const database = mongo.db(process.env.MONGODB_DB);

  // One collection for a model; a document holds the payload that the provider hands over.
  configuration.adapter = class MongoAdapter {
    constructor(model) {
      this.collection = database.collection(model);
    }

    async upsert(id, payload, expiresIn) {
      const expires = expiresIn && { expiresAt: new Date(Date.now() + expiresIn * 1000) };
      await this.collection.updateOne({ _id: id }, { $set: { payload, ...expires } }, { upsert: true });
    }

    async find(id) {
      const found = await this.collection.findOne({ _id: id });
      return found?.payload;
    }

    async destroy(id) {
      await this.collection.deleteOne({ _id: id });
    }
  };
} else {
  const clients = JSON.parse(readFileSync(process.env.BENCH_CLIENTS, 'utf8'));
  configuration.clients = Object.entries(clients).map(([client_id, client_secret]) => ({
    client_id, client_secret, scope: 'read write',
  }));
}

const provider = new Provider(RESOURCE, configuration);
provider.listen(Number(process.env.PORT), '127.0.0.1');
