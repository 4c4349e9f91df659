/** What the fuzz begins with: real frames and those of a simulated network, and who can sign for whom. */
import type { Keypair } from '@atproto/crypto'
import { messageFrame } from '../../simulator/frames.ts'
import type { Label } from '../../simulator/labeler.ts'
import { createWorld } from '../../simulator/living.ts'
import { startNetwork } from '../../simulator/network.ts'
import { type Curve, createKey } from '../../simulator/registrar.ts'
import { corpusDocuments, corpusFrames } from '../corpus.ts'
import { sharedFrames, sharedJson } from '../data.ts'
import { type Source, sourceOf } from './source.ts'
import { createTruth, type Truth } from './truth.ts'

export interface Corpus {
  sources: readonly Source[]
  /** By DID, as `did:key:…`. Who is not in it can't be resolved. */
  signingKeys: ReadonlyMap<string, string>
  /** Of labelers, likewise. */
  labelKeys: ReadonlyMap<string, string>
  truth: Truth
}

const scenarios = ['account_lifecycle', 'deactivation', 'post_lifecycle', 'seq_ordering']
/** Identities stay as they are, so that one key verifies all that an account wrote. */
const without = ['signingKey', 'migration', 'deletion', 'handle'] as const
/** Its commits are well signed, and nobody knows it. */
const unknownHandle = 'unknown.test'

export async function openCorpus(): Promise<Corpus> {
  const signingKeys = new Map<string, string>()
  for (const { id, verificationMethod } of corpusDocuments()) {
    signingKeys.set(id, `did:key:${verificationMethod?.[0]?.['publicKeyMultibase']}`)
  }
  const recorded = [...corpusFrames(), ...sharedFrames('firehose/indigo-commits/frames.bin')]
  for (const name of scenarios) {
    const path = `firehose/indigo-relay-scenarios/${name}`
    const { accounts } = sharedJson<Scenario>(`${path}.json`)
    for (const { identity } of accounts) {
      signingKeys.set(identity.did, `did:key:${identity.keys.atproto.publicKeyMultibase}`)
    }
    recorded.push(...sharedFrames(`${path}.frames.bin`))
  }
  const { frames, keys, labels, labelKeys } = await simulated()
  for (const [did, { key, handle }] of keys) {
    if (handle !== unknownHandle) signingKeys.set(did, key.did())
  }
  const sources = [
    ...recorded.map((frame) => sourceOf(frame)),
    ...frames.map((frame) => sourceOf(frame, (did) => keys.get(did)?.key ?? null)),
  ]
  const truth = createTruth(sources, labels, (did) => signingKeys.has(did))
  return { sources, signingKeys, labelKeys, truth }
}

interface Scenario {
  accounts: { identity: { did: string; keys: { atproto: { publicKeyMultibase: string } } } }[]
}

/** The frames of a small network that lived for a while, and the keys of its accounts. */
async function simulated() {
  await using network = await startNetwork({ seed: 'fuzz' })
  const world = createWorld(network, { web: false, without })
  await world.populate({ accounts: 8, older: 0, history: 0 })
  for (let step = 0; step < 260; step += 1) await world.step()
  const unknown = await network.account({ handle: unknownHandle })
  for (let count = 0; count < 20; count += 1) {
    await unknown.create('app.bsky.feed.post', { text: `${count}`, createdAt: network.clock.iso() })
  }
  const keys = new Map<string, { key: Keypair; handle: string }>()
  for (const { did, handle, signingKey } of network.accounts.values()) {
    // As the network makes them, from the handle.
    const curves: readonly Curve[] = ['k256', 'p256']
    const makeKey = (curve: Curve) => createKey(network.random.fork(`key/${handle}`), curve)
    const key = (await Promise.all(curves.map(makeKey))).find((key) => key.did() === signingKey)
    if (key === undefined) throw new Error(`the key of ${handle} is another`)
    keys.set(did, { key, handle })
  }
  const { did, labels } = network.labeler
  const key = network.directory.document(did)?.verificationMethod?.[0]?.['publicKeyMultibase']
  return {
    frames: [...network.relay.frames(), ...labelFrames(labels)],
    keys,
    labels,
    labelKeys: new Map([[did, `did:key:${key}`]]),
  }
}

/** Messages of one to three labels each. */
function labelFrames(labels: readonly Label[]): Uint8Array[] {
  return labels.map((_, at) => {
    const some = labels.slice(at, at + 1 + (at % 3))
    return messageFrame('#labels', { seq: at + 1, labels: some.map((label) => ({ ...label })) })
  })
}
