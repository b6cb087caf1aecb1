// Issuers for tests, one for each name: `node provider.mjs PORT NAME…`, in the folder where oidc-provider is installed.
// All that they do is oidc-provider's, but for what an administrator would have set: a request says that by `alg`, `ttl`,
// `typ` and `say`, the claims. Beside them: POST /control/rotate/NAME, and GET /control/counts of what was asked for.
import { generateKeyPairSync } from 'node:crypto'
import http from 'node:http'
import { createRequire } from 'node:module'

const { Provider } = await import(createRequire(`${process.cwd()}/`).resolve('oidc-provider'))

const [port, ...names] = process.argv.slice(2)
const ALGORITHMS = { EdDSA: ['ed25519'], ES256: ['ec', { namedCurve: 'P-256' }], RS256: ['rsa', { modulusLength: 2048 }] }

function key([alg, how]) {
  return { ...generateKeyPairSync(...how).privateKey.export({ format: 'jwk' }), alg, use: 'sig' }
}

function provider(name) {
  const issuer = new Provider(`http://127.0.0.1:${port}/${name}`, {
    clients: [{
      client_id: 'loader', client_secret: 'secret', redirect_uris: [], response_types: [],
      grant_types: ['client_credentials'],
    }],
    jwks: { keys: Object.entries(ALGORITHMS).map(key) },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: ({ oidc: { body } }, audience) => ({
          audience,
          scope: 'audit.write audit.ingest audit.read',
          accessTokenFormat: 'jwt',
          accessTokenTTL: Number(body.ttl),
          jwt: { sign: { alg: body.alg } },
        }),
      },
    },
    formats: {
      customizers: {
        jwt({ oidc: { body } }, _, jwt) {
          Object.assign(jwt.payload, JSON.parse(body.say))
          jwt.header = body.typ && { typ: body.typ }
        },
      },
    },
  })
  return issuer.callback()
}

// Some end their own name with a slash.
const providers = Object.fromEntries(names.map((name) => [name.replace('/', ''), provider(name)]))
const counts = {}

http.createServer((request, response) => {
  const [, name, ...rest] = request.url.split('/')
  counts[request.url] = (counts[request.url] ?? 0) + 1
  if (name in providers) {
    // What is stripped here, it puts before its own addresses.
    request.originalUrl = request.url
    request.url = `/${rest.join('/')}`
    providers[name](request, response)
  } else if (rest[0] === 'rotate') {
    providers[rest[1]] = provider(rest[1])
    response.end('{}')
  } else {
    response.end(JSON.stringify(counts))
  }
}).listen(port, '127.0.0.1')
