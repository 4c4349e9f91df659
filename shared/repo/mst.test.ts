import { BlockMap, cidForRecord, MemoryBlockstore, MST, verifyRepoCar } from '@atproto/repo'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { sharedBytes, sharedJson, sharedJsonLines, sharedLines } from '../../test/data.ts'
import { type Car, parseCar } from './car.ts'
import { decodeCbor, encodeCbor, isMap } from './cbor.ts'
import { Cid, cidOf, parseCid } from './cid.ts'
import { type Blocks, walk } from './mst.ts'
import {
  commonPrefix,
  decodeNode,
  encodeNode,
  keyLayer,
  MstError,
  type MstNode,
} from './mst-node.ts'
import { invertOps, openTree, type RecordOp } from './mst-tree.ts'

const interop = 'vectors/atproto-interop-tests'
const leaf = parseCid(cidOf(Buffer.from('a record')))

function codeOf(work: () => unknown): string {
  try {
    work()
  } catch (error) {
    if (error instanceof MstError) return error.code
    throw error
  }
  return 'no error'
}

/** A tree of keys, its root, and all blocks that it ever had. */
function aTree(keys: Iterable<string>, value = leaf) {
  const blocks = new Map<string, Uint8Array>()
  const tree = openTree(null, blocks)
  for (const key of keys) tree.set(key, value)
  return { tree, blocks, root: write(tree, blocks) }
}

function write(tree: ReturnType<typeof openTree>, blocks: Map<string, Uint8Array>): string {
  const { root, blocks: made } = tree.write()
  for (const [cid, bytes] of made) blocks.set(cid, bytes)
  return root
}

test.each(sharedJson<{ key: string; height: number }[]>(`${interop}/mst/key_heights.json`))(
  'the layer of a key: $key',
  ({ key, height }) => {
    expect(keyLayer(key)).toBe(height)
  },
)

test('the layers of the example keys are those in their names', () => {
  const keys = sharedLines(`${interop}/mst/example_keys.txt`)
  expect(keys.length).toBeGreaterThan(100)
  for (const key of keys) expect(keyLayer(key)).toBe(Number(key[1]))
})

test.each(
  sharedJson<{ left: string; right: string; len: number }[]>(`${interop}/mst/common_prefix.json`),
)('the prefix that two keys share: $left, $right', ({ left, right, len }) => {
  expect(commonPrefix(left, right)).toBe(len)
})

interface ProofFixture {
  comment: string
  keys: string[]
  adds: string[]
  dels: string[]
  leafValue: string
  rootBeforeCommit: string
  rootAfterCommit: string
  blocksInProof: string[]
}

describe.each(sharedJson<ProofFixture[]>(`${interop}/firehose/commit-proof-fixtures.json`))(
  'the published commit proof: $comment',
  ({ keys, adds, dels, leafValue, rootBeforeCommit, rootAfterCommit, blocksInProof }) => {
    const value = parseCid(leafValue)
    const blocks = new Map<string, Uint8Array>()
    const tree = openTree(null, blocks)
    for (const key of keys) tree.set(key, value)
    const before = write(tree, blocks)
    for (const key of adds) tree.set(key, value)
    for (const key of dels) tree.delete(key)
    const after = write(tree, blocks)
    const proof = new Map(blocksInProof.map((cid) => [cid, blocks.get(cid) ?? new Uint8Array(0)]))
    const ops: RecordOp[] = [
      ...adds.map((path) => ({ action: 'create', path, cid: value, prev: null }) as const),
      ...dels.map((path) => ({ action: 'delete', path, cid: null, prev: value }) as const),
    ]

    test('the trees before and after have the published roots', () => {
      expect([before, after]).toEqual([rootBeforeCommit, rootAfterCommit])
    })
    test('the ops are inverted on the published blocks alone, in any order', () => {
      expect(invertOps(after, proof, ops)).toBe(rootBeforeCommit)
      expect(invertOps(after, proof, ops.toReversed())).toBe(rootBeforeCommit)
    })
    test('an op that the commit did not make is not borne out', () => {
      const [first, ...rest] = ops
      if (!first) throw new Error('no ops')
      const wrong = { ...first, cid: first.cid && cidOf(Buffer.from('another')) }
      if (wrong.cid)
        expect(codeOf(() => invertOps(after, proof, [wrong, ...rest]))).toBe('op-mismatch')
      expect(outcomeOf(() => invertOps(after, proof, rest))).not.toBe(rootBeforeCommit)
    })
  },
)

function outcomeOf(work: () => string): string {
  try {
    return work()
  } catch (error) {
    if (error instanceof MstError) return error.code
    throw error
  }
}

interface Diff {
  name: string
  inputs: { mst_a: string; mst_b: string }
  results: {
    created_nodes: string[]
    record_ops: { rpath: string; old_value: string | null; new_value: string | null }[]
    inductive_proof_nodes: string[]
  }
}

describe('the 2,000 published diffs between trees', () => {
  const diffs = sharedJsonLines<Diff>('vectors/mst-test-suite/mst-diff.jsonl.gz')
  const cars = new Map<string, Car>()
  function carOf(path: string): Car {
    const known =
      cars.get(path) ??
      parseCar(sharedBytes(path.replace('./cars/exhaustive/', 'vectors/mst-test-suite/cars/')))
    cars.set(path, known)
    return known
  }
  const trees = diffs.map(({ inputs, results }) => {
    const [a, b] = [carOf(inputs.mst_a), carOf(inputs.mst_b)]
    return { a, b, rootA: String(a.roots[0]), rootB: String(b.roots[0]), ...results }
  })

  test('the ops of each, applied, make its second tree of its first, with its new nodes and no others', () => {
    expect(trees).toHaveLength(2_000)
    for (const { a, rootA, rootB, record_ops, created_nodes } of trees) {
      const tree = openTree(rootA, a.blocks)
      for (const { rpath, new_value } of record_ops) {
        if (new_value) tree.set(rpath, parseCid(new_value))
        else tree.delete(rpath)
      }
      const { root, blocks } = tree.write()
      expect(root).toBe(rootB)
      expect([...blocks.keys()]).toEqual(expect.arrayContaining(created_nodes))
    }
  })

  test('the inductive proof of each leads back to its first tree', () => {
    for (const { a, b, rootA, rootB, record_ops, inductive_proof_nodes } of trees) {
      const all = new Map([...a.blocks, ...b.blocks])
      const proof = new Map(
        inductive_proof_nodes.map((cid) => [cid, all.get(cid) ?? new Uint8Array(0)]),
      )
      const ops = record_ops.map(({ rpath, old_value, new_value }): RecordOp => {
        const action = old_value === null ? 'create' : new_value === null ? 'delete' : 'update'
        return { action, path: rpath, cid: new_value, prev: old_value }
      })
      expect(invertOps(rootB, proof, ops)).toBe(rootA)
    }
  })

  test('each tree is walked whole, and is the tree of its records', () => {
    for (const { blocks, roots } of cars.values()) {
      const records = [...walk(String(roots[0]), blocks)]
      const tree = openTree(null, new Map())
      for (const { key, cid } of records) tree.set(key, cid)
      expect(tree.write().root).toBe(String(roots[0]))
    }
  })
})

interface Expected {
  car: string
  records: number
  missing: number
  collections: Record<string, number>
}

const expected = sharedJsonLines<Expected>('cars/expected.jsonl')

function dataOf({ blocks, roots }: Car): Cid {
  const commit = decodeCbor(blocks.get(String(roots[0])) ?? new Uint8Array(0))
  const data = isMap(commit) ? commit['data'] : null
  if (data instanceof Cid) return data
  throw new Error('no data in the commit')
}

test.each(expected.filter(({ missing }) => missing === 0))(
  'the recorded repo is walked to its count of records, all of them there: $car',
  ({ car: path, records, collections }) => {
    const car = parseCar(sharedBytes(path))
    const found = [...walk(dataOf(car), car.blocks)]
    expect(found).toHaveLength(records)
    const counts: Record<string, number> = {}
    for (const { key, cid } of found) {
      const [collection = ''] = key.split('/')
      counts[collection] = (counts[collection] ?? 0) + 1
      expect(car.blocks.has(cid.toString())).toBe(true)
    }
    expect(counts).toEqual(collections)
  },
)

test.each(expected.filter(({ missing }) => missing > 0))(
  'a repo of which blocks are missing says so: $car',
  ({ car: path }) => {
    const car = parseCar(sharedBytes(path))
    expect(codeOf(() => [...walk(dataOf(car), car.blocks)])).toBe('missing-block')
  },
)

test.each([
  'cars/repostream-little/repo.car',
  'cars/jetstream-corpus-8k/repo.car',
  'cars/dnproto-lifecycle/07-handlechange.car',
])('the reference finds the same records: %s', async (path) => {
  const bytes = sharedBytes(path)
  const { creates } = await verifyRepoCar(bytes)
  const theirs = creates.map(({ collection, rkey, cid }) => `${collection}/${rkey} ${cid}`)
  const car = parseCar(bytes)
  const ours = [...walk(dataOf(car), car.blocks)].map(({ key, cid }) => `${key} ${cid}`)
  expect(ours).toEqual(theirs.sort())
})

const keys = fc.uniqueArray(
  fc
    .tuple(fc.constantFrom('a', 'b', 'a.b'), fc.stringMatching(/^[a-z0-9]{1,6}$/))
    .map((parts) => parts.join('/')),
  { minLength: 1, maxLength: 40 },
)

test('property: the reference makes the same tree of the same keys', async () => {
  const value = await cidForRecord({ $type: 'a.b.c' })
  const ours = parseCid(value.toString())
  await fc.assert(
    fc.asyncProperty(keys, async (keys) => {
      let theirs = await MST.create(new MemoryBlockstore(new BlockMap()))
      for (const key of keys) theirs = await theirs.add(key, value)
      expect(aTree(keys, ours).root).toBe(String(await theirs.getPointer()))
    }),
    { numRuns: 50 },
  )
})

test('property: a tree is a function of its keys, whatever came and went before', () => {
  fc.assert(
    fc.property(keys, keys, (stay, leave) => {
      const { tree, blocks } = aTree([...leave, ...stay])
      for (const key of leave)
        if (!stay.includes(key)) expect(tree.delete(key)?.toString()).toBe(leaf.toString())
      const root = write(tree, blocks)
      expect(root).toBe(aTree(stay.toSorted()).root)
      expect([...walk(root, blocks)].map(({ key }) => key)).toEqual(stay.toSorted())
    }),
  )
})

test('property: the nodes that an inversion reads are a proof of the commit', () => {
  fc.assert(
    fc.property(keys, keys, (before, changed) => {
      const { tree, blocks, root } = aTree(before)
      const other = parseCid(cidOf(Buffer.from('another record')))
      const ops = changed.map((path, index): RecordOp => {
        if (!before.includes(path)) return { action: 'create', path, cid: other, prev: null }
        if (index % 2 === 0) return { action: 'update', path, cid: other, prev: leaf }
        return { action: 'delete', path, cid: null, prev: leaf }
      })
      for (const { action, path } of ops) {
        if (action === 'delete') tree.delete(path)
        else tree.set(path, other)
      }
      const after = write(tree, blocks)
      const proof = new Map<string, Uint8Array>()
      const noting: Blocks = {
        get(cid) {
          const bytes = blocks.get(cid)
          if (bytes) proof.set(cid, bytes)
          return bytes
        },
      }
      expect(invertOps(after, noting, ops)).toBe(root)
      expect(invertOps(after, proof, ops)).toBe(root)
    }),
  )
})

test('an inversion leaves the blocks as they were', () => {
  const { tree, blocks } = aTree(['a/b', 'a/c', 'b/d', 'b/e'])
  const other = parseCid(cidOf(Buffer.from('another record')))
  tree.set('a/b', other)
  const root = write(tree, blocks)
  // As views of one buffer, as they come in a frame.
  const kept = new Map([...blocks].map(([cid, bytes]) => [cid, Buffer.from(bytes)]))
  invertOps(root, kept, [{ action: 'update', path: 'a/b', cid: other, prev: leaf }])
  for (const [cid, bytes] of kept) expect(cidOf(bytes)).toBe(cid)
})

test('the empty tree has its one root', () => {
  const { root, blocks } = aTree([])
  expect(root).toBe('bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm')
  expect([...walk(root, blocks)]).toEqual([])
  const { tree, blocks: more } = aTree(['a/b'])
  tree.delete('a/b')
  expect(write(tree, more)).toBe(root)
})

test('a commit without ops is its own proof', () => {
  const { root } = aTree(['a/b'])
  expect(invertOps(root, new Map(), [])).toBe(root)
})

test.each<[string, RecordOp]>([
  ['a create of what is not there', { action: 'create', path: 'a/x', cid: leaf, prev: null }],
  ['a create with a prev', { action: 'create', path: 'a/b', cid: leaf, prev: leaf }],
  ['a create without a cid', { action: 'create', path: 'a/b', cid: null, prev: null }],
  ['an update without a prev', { action: 'update', path: 'a/b', cid: leaf, prev: null }],
  ['an update of what is not there', { action: 'update', path: 'a/x', cid: leaf, prev: leaf }],
  ['a delete of what is there', { action: 'delete', path: 'a/b', cid: null, prev: leaf }],
  ['a delete without a prev', { action: 'delete', path: 'a/x', cid: null, prev: null }],
  ['a cid that is none', { action: 'update', path: 'a/b', cid: leaf, prev: 'none' }],
])('an op that the tree does not bear out is refused: %s', (_, op) => {
  const { root, blocks } = aTree(['a/b', 'a/c'])
  expect(codeOf(() => invertOps(root, blocks, [op]))).toBe('op-mismatch')
})

test('two ops on one record are refused', () => {
  const { root, blocks } = aTree(['a/b'])
  const op: RecordOp = { action: 'create', path: 'a/b', cid: leaf, prev: null }
  expect(codeOf(() => invertOps(root, blocks, [op, op]))).toBe('op-mismatch')
})

describe('a block that is no canonical node is refused', () => {
  const node: MstNode = { keys: ['a/b', 'a/bc'], values: [leaf, leaf], trees: [null, null, null] }
  const entry = { k: Buffer.from('a/b'), p: 0, t: null, v: leaf }
  const encoded = (fields: object) => encodeCbor(fields as never)

  test('but a canonical one is written back as it was', () => {
    const bytes = encodeNode(node)
    expect(decodeNode(bytes).keys).toEqual(node.keys)
    expect(Buffer.compare(encodeNode(decodeNode(bytes)), bytes)).toBe(0)
    const same = { l: null, e: [entry, { ...entry, k: Buffer.from('c'), p: 3 }] }
    expect(Buffer.compare(encoded(same), bytes)).toBe(0)
  })

  test.each<[string, object | null]>([
    ['null', null],
    ['a field more', { e: [], l: null, x: 1 }],
    ['a field less', { e: [] }],
    ['an entry with a field more', { e: [{ ...entry, x: 1 }], l: null }],
    ['a key that is text', { e: [{ ...entry, k: 'a/b' }], l: null }],
    ['a value that is null', { e: [{ ...entry, v: null }], l: null }],
    ['keys out of order', { e: [entry, { ...entry, k: Buffer.from('a/a') }], l: null }],
    ['a key twice', { e: [entry, { ...entry, k: Buffer.alloc(0), p: 3 }], l: null }],
    ['a prefix not used', { e: [entry, { ...entry, k: Buffer.from('a/bc') }], l: null }],
    [
      'a prefix longer than the key before',
      { e: [entry, { ...entry, k: Buffer.from('c'), p: 4 }], l: null },
    ],
    ['a prefix of nothing', { e: [{ ...entry, p: 1 }], l: null }],
    ['a negative prefix', { e: [{ ...entry, p: -1 }], l: null }],
    ['a key without a slash', { e: [{ ...entry, k: Buffer.from('ab') }], l: null }],
    ['a key with two slashes', { e: [{ ...entry, k: Buffer.from('a/b/c') }], l: null }],
    ['a key that is not ASCII', { e: [{ ...entry, k: Buffer.from('a/é') }], l: null }],
    ['a key too long', { e: [{ ...entry, k: Buffer.from(`a/${'b'.repeat(1_023)}`) }], l: null }],
  ])('%s', (_, fields) => {
    expect(codeOf(() => decodeNode(encodeCbor(fields as never)))).toBe('malformed')
  })

  test('bytes cut short anywhere, or followed by others', () => {
    const bytes = encodeNode(node)
    for (let length = 0; length < bytes.length; length++) {
      expect(codeOf(() => decodeNode(bytes.subarray(0, length)))).toBe('malformed')
    }
    expect(codeOf(() => decodeNode(Buffer.concat([bytes, Buffer.of(0)])))).toBe('malformed')
  })

  test('numbers not in their shortest form', () => {
    const hex = Buffer.from(encodeNode({ keys: [], values: [], trees: [null] })).toString('hex')
    const longer = hex.replace('616580', '61659800')
    expect(longer).not.toBe(hex)
    expect(codeOf(() => decodeNode(Buffer.from(longer, 'hex')))).toBe('malformed')
  })
})

describe('a tree that breaks a rule is not walked to its end', () => {
  function store(...nodes: MstNode[]) {
    const blocks = new Map(
      nodes.map((node) => encodeNode(node)).map((bytes) => [cidOf(bytes), bytes]),
    )
    return { blocks, cids: [...blocks.keys()].map(parseCid) }
  }
  const leafOf = (...keys: string[]): MstNode => ({
    keys,
    values: keys.map(() => leaf),
    trees: [null, ...keys.map(() => null)],
  })
  const byLayer = (layer: number, from = 0) => {
    for (let index = from; ; index++) if (keyLayer(`k/${index}`) === layer) return `k/${index}`
  }

  test('a key on a layer that is not its own', () => {
    const { blocks, cids } = store(leafOf(...[byLayer(0), byLayer(1)].sort()))
    expect(codeOf(() => [...walk(String(cids[0]), blocks)])).toBe('malformed')
  })

  test('keys of a subtree outside of its place', () => {
    const [first, second] = [byLayer(0, 1), byLayer(1, 1)].sort() as [string, string]
    const [below, top] = keyLayer(first) === 0 ? [first, second] : [second, first]
    const under = store(leafOf(below))
    const [tree = null] = under.cids
    // Before its parent's key where it belongs after it, or after where it belongs before.
    const trees = below < top ? [null, tree] : [tree, null]
    const { blocks, cids } = store({ ...leafOf(top), trees })
    const all = new Map([...blocks, ...under.blocks])
    expect(codeOf(() => [...walk(String(cids[0]), all)])).toBe('malformed')
  })

  test('a subtree below layer 0', () => {
    const below = store(leafOf(byLayer(0, 10)))
    const { blocks, cids } = store({
      ...leafOf(byLayer(0, 20)),
      trees: [below.cids[0] ?? null, null],
    })
    expect(codeOf(() => [...walk(String(cids[0]), new Map([...blocks, ...below.blocks]))])).toBe(
      'malformed',
    )
  })

  test('a root without keys, and an empty node below one', () => {
    const empty = store({ keys: [], values: [], trees: [null] })
    const bare = store({ keys: [], values: [], trees: [empty.cids[0] ?? null] })
    expect(
      codeOf(() => [...walk(String(bare.cids[0]), new Map([...bare.blocks, ...empty.blocks]))]),
    ).toBe('malformed')
    const over = store({ ...leafOf(byLayer(1)), trees: [empty.cids[0] ?? null, null] })
    expect(
      codeOf(() => [...walk(String(over.cids[0]), new Map([...over.blocks, ...empty.blocks]))]),
    ).toBe('malformed')
  })
})
