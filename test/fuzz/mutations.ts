/** Ways to spoil a frame: its bytes, its fields, its blocks, its ops, and what its account signs. */
import { encode } from '@atproto/lex-cbor'
import { isLexMap, type LexMap, type LexValue } from '@atproto/lex-data'
import { formatTid } from '../../simulator/clock.ts'
import { messageFrame } from '../../simulator/frames.ts'
import type { Random } from '../../simulator/random.ts'
import { byteMutations } from './bytes.ts'
import { type Block, blockOf, carOf } from './car.ts'
import type { Corpus } from './corpus.ts'
import type { Mutant, Mutation } from './mutation.ts'
import { signedMutations } from './signed.ts'
import { opsOf, type Source } from './source.ts'

/** Values that no field expects, and some that other fields do. */
function junk(random: Random, { body }: Source): LexValue {
  const values: LexValue[] = [
    null,
    true,
    0,
    -1,
    2 ** 53 - 1,
    random.below(2 ** 32),
    '',
    'x'.repeat(random.below(3_000)),
    'did:plc:44ybard66vv44zksje25o7dz',
    '\u0000\ud7ff💥',
    '__proto__',
    random.bytes(random.below(64)),
    [],
    [[], {}, null],
    {},
    { $link: 'x', toString: 1, constructor: {} },
    '2099-01-01T00:00:00.000Z',
    '3llpyftcvih2r',
    ...Object.values(body).filter((value) => value !== undefined),
  ]
  return random.pick(values)
}

/** The message with other fields, under the kind that it has. */
function changed({ type, body }: Source, change: LexMap): Mutant {
  return { frame: messageFrame(type, { ...body, ...change }) }
}

/** The message with other blocks. */
function withBlocks(source: Source, blocks: readonly Block[]): Mutant | null {
  const [commit] = source.blocks
  return commit ? changed(source, { blocks: carOf([commit.cid], blocks) }) : null
}

const kinds = ['#commit', '#sync', '#identity', '#account', '#labels', '#info', '#nothing', '']

const fieldMutations: readonly Mutation[] = [
  {
    name: 'a field is something else',
    weight: 12,
    make: (source, random) => {
      const field = random.pick([...Object.keys(source.body), '__proto__', 'extra'])
      return changed(source, Object.fromEntries([[field, junk(random, source)]]))
    },
  },
  {
    name: 'a field is missing',
    weight: 4,
    make: ({ type, body }, random) => {
      const field = random.pick(Object.keys(body))
      const { [field]: _, ...rest } = body
      return { frame: messageFrame(type, rest) }
    },
  },
  {
    name: 'the message of another frame',
    weight: 3,
    make: (source, random, { sources }) => {
      const other = random.pick(sources)
      const field = random.pick(Object.keys(source.body))
      return changed(source, { [field]: other.body[field] ?? null })
    },
  },
  {
    name: 'another kind',
    weight: 2,
    make: ({ body }, random) => ({ frame: messageFrame(random.pick(kinds), body) }),
  },
  {
    name: 'another header',
    weight: 1,
    make: (source, random) => {
      const header = { op: random.pick([-1, 0, 1, 2]), t: junk(random, source) }
      return { frame: Buffer.concat([encode(header), encode(source.body)]) }
    },
  },
  {
    name: 'other seq and time',
    weight: 3,
    make: (source, random) => {
      const time = new Date(random.below(2 ** 31) * 1_000).toISOString()
      return changed(source, { seq: random.below(2 ** 40), time })
    },
  },
  {
    name: 'a list nested deeper than anything',
    weight: 0.5,
    make: (source, random) => {
      let nested: LexValue = []
      for (let depth = random.below(400); depth > 0; depth -= 1) nested = [nested]
      return changed(source, { blobs: nested })
    },
  },
  {
    name: 'a status',
    weight: 3,
    make: ({ body, did }, random) => {
      const status = random.pick(['deactivated', 'TAKENDOWN', 'desynchronized', 'x', ''])
      const active = random.chance(0.8)
      return {
        frame: messageFrame('#account', {
          seq: body['seq'],
          time: body['time'],
          did,
          active,
          status,
        } as LexMap),
      }
    },
  },
]

const labelMutations: readonly Mutation[] = [
  {
    name: 'a label says something else',
    weight: 6,
    make: (source, random) => {
      const { labels } = source.body
      const list = Array.isArray(labels) ? labels.filter(isLexMap) : []
      const [label] = list
      if (label === undefined) return null
      const field = random.pick(['ver', 'src', 'uri', 'cid', 'val', 'neg', 'cts', 'exp', 'sig'])
      const other = random.chance(0.3) ? (list.at(-1)?.[field] ?? null) : junk(random, source)
      return changed(source, { labels: [{ ...label, [field]: other }, ...list.slice(1)] })
    },
  },
  {
    name: 'a label without its signature',
    weight: 2,
    make: (source) => {
      const { labels } = source.body
      const list = Array.isArray(labels) ? labels.filter(isLexMap) : []
      const unsigned = list.map(({ sig: _, ...label }) => label)
      return list.length > 0 ? changed(source, { labels: unsigned }) : null
    },
  },
]

const blockMutations: readonly Mutation[] = [
  {
    name: 'a block is left out',
    weight: 6,
    make: (source, random) => {
      const gone = random.below(source.blocks.length)
      return withBlocks(
        source,
        source.blocks.filter((_, at) => at !== gone),
      )
    },
  },
  {
    name: 'a block is not what its cid says',
    weight: 3,
    make: (source, random, { sources }) => {
      const other = random.pick(sources).blocks
      const at = random.below(source.blocks.length)
      const bytes =
        random.chance(0.5) && other.length > 0 ? random.pick(other).bytes : random.bytes(40)
      return withBlocks(
        source,
        source.blocks.map((block, index) => (index === at ? { ...block, bytes } : block)),
      )
    },
  },
  {
    name: 'blocks in another order, twice, and more of them',
    weight: 3,
    make: (source, random, { sources }) => {
      const more = random.pick(sources).blocks
      const all = [...source.blocks, ...more, blockOf(random.bytes(random.below(100)))]
      return withBlocks(
        source,
        all.toSorted(() => random.next() - 0.5),
      )
    },
  },
  {
    name: 'other roots',
    weight: 2,
    make: (source, random) => {
      if (source.blocks.length === 0) return null
      const { cid } = random.pick(source.blocks)
      const roots = random.pick([[], [cid], [cid, cid]])
      const commit = random.chance(0.5) ? { commit: cid } : {}
      return changed(source, { blocks: carOf(roots, source.blocks), ...commit })
    },
  },
  {
    name: 'blocks of another commit',
    weight: 3,
    make: (source, random, { sources }) => {
      const { body } = random.pick(sources)
      const { commit, blocks, ops, rev, prevData } = body
      const parts = { commit, blocks, ops, rev, prevData }
      const taken = Object.entries(parts).filter(
        ([, value]) => value !== undefined && random.chance(0.7),
      )
      return changed(source, Object.fromEntries(taken) as LexMap)
    },
  },
  {
    name: 'a block of more than a megabyte',
    weight: 0.12,
    make: (source) => withBlocks(source, [...source.blocks, blockOf(new Uint8Array(1_000_001))]),
  },
  {
    name: 'blocks of more than two megabytes',
    weight: 0.12,
    make: (source) => {
      const filler = blockOf(new Uint8Array(700_000))
      return withBlocks(source, [...source.blocks, filler, filler, filler])
    },
  },
  {
    name: 'a frame of more than five megabytes',
    weight: 0.12,
    make: (source) => changed(source, { blobs: new Uint8Array(5_000_000) }),
  },
]

/** The commit with other ops; sometimes without `prevData`, as those from before sync 1.1 are. */
function withOps(
  name: string,
  weight: number,
  make: (ops: LexMap[], random: Random, source: Source, corpus: Corpus) => LexValue[] | null,
): Mutation {
  return {
    name,
    weight,
    make(source, random, corpus) {
      const ops = opsOf(source.body)
      const made = source.type === '#commit' ? make(ops, random, source, corpus) : null
      if (made === null) return null
      const { prevData, ...body } = source.body
      const legacy = prevData === undefined || random.chance(0.4)
      return {
        frame: messageFrame('#commit', { ...body, ...(!legacy && { prevData }), ops: made }),
      }
    },
  }
}

/** One op with other fields. */
function withOp(
  name: string,
  weight: number,
  change: (op: LexMap, random: Random, source: Source, corpus: Corpus) => LexMap,
): Mutation {
  return withOps(name, weight, (ops, random, source, corpus) => {
    const at = random.below(ops.length)
    const op = ops[at]
    return op ? ops.with(at, { ...op, ...change(op, random, source, corpus) }) : null
  })
}

const paths = ['app.bsky.feed.post/..', 'a/b', 'app.bsky.feed.post', '', '/', 'a/b/c', '💥/x']

const opMutations: readonly Mutation[] = [
  withOps('ops in another order', 2, (ops) => ops.toReversed()),
  withOps('an op twice', 2, (ops, random) => (ops.length > 0 ? [...ops, random.pick(ops)] : null)),
  withOps('an op is left out', 3, (ops, random) => ops.toSpliced(random.below(ops.length), 1)),
  withOps('ops that are none', 1, (ops, random, source) => [...ops, junk(random, source)]),
  withOps('more ops than there may be', 0.3, (ops) =>
    Array.from({ length: 201 }, (_, at) => ({
      action: 'delete',
      path: `a.b.c/${at}`,
      cid: null,
      ...ops[0],
    })),
  ),
  withOps('an op of another commit', 2, (ops, random, _, { sources }) => [
    ...ops,
    ...opsOf(random.pick(sources).body).slice(0, 1),
  ]),
  withOps('a delete of what can be no record', 1, (ops, random) => [
    ...ops,
    { action: 'delete', path: random.pick(paths), cid: null },
  ]),
  withOps('a delete that nobody made', 3, (ops, random, source, { truth }) => {
    const present = [...(truth.of(source)?.present.keys() ?? [])]
    const path =
      present.length > 0 && random.chance(0.8)
        ? random.pick(present)
        : `app.bsky.feed.post/${formatTid(random.below(2 ** 50), 1)}`
    return [...ops, { action: 'delete', path, cid: null }]
  }),
  withOp('another action', 3, (_, random) => ({
    action: random.pick(['create', 'update', 'delete', 'x']),
  })),
  withOp('a create for an update, an update for a create', 2, ({ action, prev }, _, { blocks }) =>
    action === 'create'
      ? { action: 'update', prev: blocks[0]?.cid ?? null }
      : { action: 'create', prev: null, cid: prev ?? null },
  ),
  withOp('another prev', 3, (_, random, source, { sources }) => {
    const other = random.chance(0.5) ? random.pick(sources).blocks : source.blocks
    return { prev: random.chance(0.4) ? junk(random, source) : (other[0]?.cid ?? null) }
  }),
  withOp('another cid', 3, (_, random, source) => ({
    cid: random.chance(0.3) ? junk(random, source) : random.pick(source.blocks).cid,
  })),
  withOp('another path', 2, ({ path }, random) => ({
    path: random.chance(0.5) ? `${path}x` : random.pick(paths),
  })),
  {
    name: 'a record of a stranger, and no tree to tell',
    weight: 3,
    make: (source, random) => {
      const [commit] = source.blocks
      const [op] = opsOf(source.body)
      if (commit === undefined || op === undefined) return null
      const record = blockOf(encode({ $type: 'app.bsky.feed.post', text: 'forged', createdAt: '' }))
      const { prevData, ...body } = source.body
      const kept = source.blocks.filter((block) => block === commit || random.chance(0.5))
      const blocks = carOf([commit.cid], [...kept, record])
      const ops = [{ ...op, action: 'create', cid: record.cid, prev: null }]
      const legacy = random.chance(0.6) || prevData === undefined
      return {
        frame: messageFrame('#commit', { ...body, ...(!legacy && { prevData }), blocks, ops }),
      }
    },
  },
]

const untouched: Mutation = { name: 'none', weight: 3, make: ({ frame }) => ({ frame }) }

export const mutations: readonly Mutation[] = [
  untouched,
  ...byteMutations,
  ...fieldMutations,
  ...labelMutations,
  ...blockMutations,
  ...opMutations,
  ...signedMutations,
]

/** The frame was left as it was. */
export const isUntouched = (mutation: Mutation): boolean => mutation === untouched
