/** Makes, changes and ends identities: did:plc by signed operations, did:web by a host of its own. */
import { type Keypair, P256Keypair, Secp256k1Keypair } from '@atproto/crypto'
import type { Clock } from './clock.ts'
import type { Directory } from './directory.ts'
import { documentOf, type PlcData, signOperation, signTombstone } from './documents.ts'
import { type Listener, listen, XrpcError } from './http.ts'
import type { Random } from './random.ts'

export type Curve = 'k256' | 'p256'
export type IdentityData = Omit<PlcData, 'rotationKeys'>

export interface Registrar {
  /** Makes an identity and answers its DID. */
  register(data: IdentityData, method: 'plc' | 'web'): Promise<string>
  /** Gives the identity this data; `rotate` replaces its rotation key as well. */
  amend(did: string, data: IdentityData, options?: { rotate?: boolean }): Promise<void>
  /** Ends the identity: a did:plc by a tombstone, a did:web by no longer answering. */
  end(did: string): Promise<void>
  close(): Promise<void>
}

export async function createRegistrar(options: {
  directory: Directory
  clock: Clock
  random: Random
}): Promise<Registrar> {
  const { directory, clock, random } = options
  const firstKey = await createKey(random.fork('rotation'), 'k256')
  const rotated = new Map<string, Keypair>()
  const webs: Listener[] = []
  const keyOf = (did: string) => rotated.get(did) ?? firstKey
  const place = (did: string) => ({
    did,
    key: keyOf(did),
    prev: directory.log(did).findLast(({ nullified }) => !nullified)?.cid ?? null,
    createdAt: clock.iso(),
  })

  const amend: Registrar['amend'] = async (did, data, { rotate = false } = {}) => {
    if (did.startsWith('did:web:')) return directory.setDocument(documentOf(did, data))
    const next = rotate
      ? await createKey(random.fork(`rotation/${did}/${clock.now()}`), 'k256')
      : keyOf(did)
    const rotationKeys = [next.did()]
    directory.append(await signOperation({ rotationKeys, ...data }, place(did)))
    rotated.set(did, next)
  }

  /**
   * A did:plc of two operations. Ports differ from run to run, so the first one, which decides the
   * DID, names no loopback address.
   */
  const registerPlc = async (data: IdentityData): Promise<string> => {
    const services: PlcData['services'] = {}
    for (const [name, { type }] of Object.entries(data.services)) {
      services[name] = { type, endpoint: `https://${name.replaceAll('_', '-')}.test` }
    }
    const genesis = await signOperation(
      { rotationKeys: [firstKey.did()], ...data, services },
      { key: firstKey, prev: null, did: null, createdAt: clock.iso() },
    )
    directory.append(genesis)
    await amend(genesis.did, data)
    return genesis.did
  }

  const registerWeb = async (data: IdentityData): Promise<string> => {
    const listener = await listen({
      answer: ({ path }) => {
        const body = directory.document(did)
        if (path !== '/.well-known/did.json' || !body) throw new XrpcError(404, 'NotFound', path)
        return { body }
      },
    })
    const did = `did:web:localhost%3A${new URL(listener.url).port}`
    directory.setDocument(documentOf(did, data))
    webs.push(listener)
    return did
  }

  return {
    register: (data, method) => (method === 'web' ? registerWeb(data) : registerPlc(data)),
    amend,
    async end(did) {
      const { prev, ...rest } = place(did)
      if (prev === null) directory.forget(did)
      else directory.append(await signTombstone(did, { ...rest, prev }))
    },
    async close() {
      await Promise.all(webs.map((web) => web.close()))
    },
  }
}

/** The same source gives the same key. */
export function createKey(random: Random, curve: Curve): Promise<Keypair> {
  const secret = random.bytes(32)
  return curve === 'k256' ? Secp256k1Keypair.import(secret) : P256Keypair.import(secret)
}
