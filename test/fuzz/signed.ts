/** Commits signed anew: by a stranger, or by the account itself for something that is not so. */
import type { Keypair } from '@atproto/crypto'
import { decode, encode } from '@atproto/lex-cbor'
import type { Cid, LexMap } from '@atproto/lex-data'
import { formatTid } from '../../simulator/clock.ts'
import { messageFrame } from '../../simulator/frames.ts'
import type { Random } from '../../simulator/random.ts'
import { createRandom } from '../../simulator/random.ts'
import { createKey } from '../../simulator/registrar.ts'
import { type Block, blockOf, carOf } from './car.ts'
import type { Corpus } from './corpus.ts'
import type { Mutant, Mutation } from './mutation.ts'
import type { Source } from './source.ts'

const stranger = createKey(createRandom('stranger'), 'k256')

interface Resigned {
  key: Keypair
  /** Fields of the signed commit. */
  commit?: LexMap
  /** Fields of the message around it. */
  body?: LexMap
  /** Further blocks. */
  blocks?: readonly Block[]
}

/** The message around a commit that is signed anew. */
async function resigned(source: Source, { key, commit, body, blocks = [] }: Resigned) {
  const [before, ...others] = source.blocks
  if (before === undefined) return null
  const { sig: _, ...fields } = { ...decode<LexMap>(before.bytes), ...commit }
  const sig = await key.sign(encode(fields))
  const signed = blockOf(encode({ ...fields, sig }))
  const root = source.type === '#commit' ? { commit: signed.cid } : {}
  const car = carOf([signed.cid], [signed, ...others, ...blocks])
  const frame = messageFrame(source.type, { ...source.body, ...root, blocks: car, ...body })
  return { frame, cid: String(signed.cid) }
}

type Change = (source: Source, random: Random, corpus: Corpus) => Omit<Resigned, 'key'> | null

/** The account lies: it signs what must not be taken all the same. */
function ownLie(name: string, weight: number, change: Change): Mutation {
  return {
    name: `signed by the account: ${name}`,
    weight,
    async make(source, random, corpus) {
      const { key } = source
      const lie = key && source.blocks.length > 0 ? change(source, random, corpus) : null
      if (key === null || lie === null) return null
      const signed = await resigned(source, { key, ...lie })
      return signed && { frame: signed.frame }
    },
  }
}

/** The account makes the same commit anew, which is as good as the first. */
async function madeAnew(source: Source, corpus: Corpus, commit: LexMap): Promise<Mutant | null> {
  const truth = corpus.truth.of(source)
  const { key } = source
  if (truth === undefined || key === null) return null
  const rev = typeof commit['rev'] === 'string' ? commit['rev'] : truth.rev
  const signed = await resigned(source, { key, commit, body: { rev } })
  return signed && { frame: signed.frame, made: { ...truth, rev, commit: signed.cid } }
}

const minute = 60_000

const node = (source: Source): { cid: Cid; node: LexMap } | null => {
  const data = decode<LexMap>(source.blocks[0]?.bytes ?? encode({}))['data']
  const found = source.blocks.find(({ cid }) => String(cid) === String(data))
  return found ? { cid: found.cid, node: decode<LexMap>(found.bytes) } : null
}

export const signedMutations: readonly Mutation[] = [
  {
    name: 'signed by a stranger',
    weight: 2,
    async make(source) {
      const signed = await resigned(source, { key: await stranger })
      return signed && { frame: signed.frame }
    },
  },
  {
    name: 'another signature',
    weight: 3,
    make(source, random) {
      const [commit, ...others] = source.blocks
      if (commit === undefined) return null
      const fields = decode<LexMap>(commit.bytes)
      const sig = Uint8Array.from(fields['sig'] as Uint8Array)
      const at = random.below(sig.length)
      sig[at] = (sig[at] ?? 0) ^ (1 << random.below(8))
      const kept = random.pick([sig, sig.subarray(0, 63), new Uint8Array(64), new Uint8Array()])
      const forged = blockOf(encode({ ...fields, sig: kept }))
      const blocks = carOf([forged.cid], [forged, ...others])
      const root = source.type === '#commit' ? { commit: forged.cid } : {}
      return { frame: messageFrame(source.type, { ...source.body, ...root, blocks }) }
    },
  },
  {
    name: 'signed by the account: another rev',
    weight: 1,
    make: (source, random, corpus) =>
      madeAnew(source, corpus, {
        rev: formatTid(Date.UTC(2026, 0, 2) * 1_000 + random.below(2 ** 40), 3),
      }),
  },
  {
    name: 'signed by the account: a field that nobody knows',
    weight: 1,
    make: (source, random, corpus) => madeAnew(source, corpus, { extra: random.below(1_000) }),
  },
  ownLie('a rev to come', 1, (_, random) => {
    const rev = formatTid((Date.now() + 6 * minute + random.below(2 ** 40)) * 1_000, 3)
    return { commit: { rev }, body: { rev } }
  }),
  ownLie('another rev than the message says', 1, () => ({ commit: { rev: '3llpyftcvih2r' } })),
  ownLie('another prevData', 1, ({ type, blocks }) =>
    type === '#commit' && blocks[0] ? { body: { prevData: blocks[0].cid } } : null,
  ),
  ownLie('another account', 1, () => ({ commit: { did: 'did:plc:44ybard66vv44zksje25o7dz' } })),
  ownLie('a commit of no known form', 1, (_, random) => ({
    commit: random.pick<LexMap>([{ version: 2 }, { rev: 'x' }, { data: null }, { prev: 7 }]),
  })),
  ownLie('another tree', 1, (_, random, { sources }) => {
    const { blocks } = random.pick(sources)
    return blocks.length > 0 ? { commit: { data: random.pick(blocks).cid }, blocks } : null
  }),
  ownLie('a tree that breaks its rules', 2, (source, random) => {
    const root = source.type === '#commit' ? node(source) : null
    const entries = root?.node['e']
    if (!root || !Array.isArray(entries)) return null
    const spoilt = random.pick<LexMap>([
      { e: entries.toReversed() },
      { e: [...entries, ...entries] },
      { l: root.cid },
      { e: [] },
      { e: [...entries, 7] },
      { x: 1 },
    ])
    const block = blockOf(encode({ ...root.node, ...spoilt }))
    return { commit: { data: block.cid }, blocks: [block] }
  }),
  ownLie('a record that is none', 1, (source) => {
    // Only without prevData the tree need not have been what it says.
    const root = source.type === '#commit' ? node(source) : null
    const entries = root?.node['e']
    const [first] = Array.isArray(entries) ? entries : []
    if (!root || !Array.isArray(entries) || typeof first !== 'object' || first === null) return null
    const record = blockOf(encode([1]))
    const [{ k: key }] = entries as [{ k: Uint8Array }]
    const changed = blockOf(
      encode({ ...root.node, e: [{ ...(first as LexMap), v: record.cid }, ...entries.slice(1)] }),
    )
    const ops = [
      { action: 'update', path: Buffer.from(key).toString(), cid: record.cid, prev: null },
    ]
    return {
      commit: { data: changed.cid },
      body: { ops, prevData: null },
      blocks: [changed, record],
    }
  }),
]
