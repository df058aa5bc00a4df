// An OpenID Connect provider for tests: node provider.mjs MODULES CONFIG
// MODULES is the folder that package.json was installed in, CONFIG a JSON file that oidc.go writes.
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const [modules, file] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(`${modules}/node_modules/oidc-provider/lib/index.js`));
const config = JSON.parse(readFileSync(file));
const issuer = new URL(config.issuer);

const provider = new Provider(config.issuer, {
  clients: config.clients,
  jwks: config.jwks,
  cookies: { keys: ['only for tests'] },
  claims: {
    openid: ['sub'],
    profile: ['name', 'preferred_username'],
    email: ['email', 'email_verified'],
    groups: ['groups'],
  },
  scopes: ['openid', 'profile', 'email', 'groups'],
  // If true, ID tokens hold next to nothing and the rest is told at the userinfo endpoint.
  conformIdTokenClaims: config.thin,
  pkce: { required: () => true },
  features: { deviceFlow: { enabled: true } },
  ttl: { IdToken: 3600, AccessToken: 3600, AuthorizationCode: 60, DeviceCode: 600, Session: 3600, Grant: 3600, Interaction: 600 },
  async findAccount(ctx, sub) {
    const claims = config.accounts[sub];
    return claims && { accountId: sub, claims: () => ({ ...claims, sub }) };
  },
});
provider.listen(Number(issuer.port), issuer.hostname);
