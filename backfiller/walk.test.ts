/** Reading, proving and walking whole repos: the recorded ones, and what can be wrong with them. */
import { verifyRepoCar } from '@atproto/repo'
import { describe, expect, test } from 'vitest'
import { parseCar, writeCar } from '../shared/repo/car.ts'
import { encodeCbor, fromLexJson } from '../shared/repo/cbor.ts'
import { cidOf, parseCid } from '../shared/repo/cid.ts'
import { encodeCommit } from '../shared/repo/commit.ts'
import { openTree } from '../shared/repo/mst-tree.ts'
import { parseVerificationKey } from '../shared/repo/signature.ts'
import { scopeOf } from '../shared/scope.ts'
import {
  carOf,
  completeRepos,
  documentOf,
  type RecordedRepo,
  recordedRepos,
} from '../test/recorded-repos.ts'
import { Blocks } from './blocks.ts'
import { failureOf } from './failures.ts'
import { createMemory } from './memory.ts'
import { isSignedBy, readBlocks } from './read.ts'
import { openRepo, proveTree, type RepoRecord, recordsOf } from './walk.ts'

async function* inChunks(bytes: Uint8Array, size = 10_000) {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}

async function prove(did: string, car: Uint8Array) {
  const blocks = new Blocks(createMemory(1e9))
  const roots = await readBlocks(inChunks(car), blocks, new AbortController().signal)
  const repo = openRepo(did, roots, blocks, Date.now())
  const steps = proveTree(repo.commit.data, blocks)
  for (let step = steps.next(); ; step = steps.next()) {
    if (step.done) return { repo, blocks, tree: step.value }
  }
}

async function recordsIn({ did }: RecordedRepo, car: Uint8Array): Promise<RepoRecord[]> {
  const { repo, blocks } = await prove(did, car)
  const found = [...recordsOf(repo.commit.data, blocks, () => true)]
  return found.filter((one): one is RepoRecord => 'record' in one)
}

async function reasonOf(did: string, car: Uint8Array): Promise<string> {
  try {
    await prove(did, car)
  } catch (error) {
    return failureOf(error)?.reason ?? String(error)
  }
  return 'none'
}

function countsOf(records: readonly RepoRecord[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { collection } of records) counts[collection] = (counts[collection] ?? 0) + 1
  return counts
}

const anotherKey = 'did:key:zDnaembgSGUhZULN2Caob4HLJPaxBh92N7rtH21TErzqf8HQo'
const little = completeRepos.find(({ car }) => car.includes('repostream-little')) as RecordedRepo

describe.each(completeRepos)('the recorded repo $car', (recorded) => {
  test('gives its records, each with the CID that its JSON still hashes to', async () => {
    const records = await recordsIn(recorded, carOf(recorded))
    expect(countsOf(records)).toEqual(recorded.collections)
    for (const { cid, record } of records) {
      expect(cidOf(encodeCbor(fromLexJson(record as never)))).toBe(cid)
    }
  })

  test('is signed by its account and by nobody else', async () => {
    const { repo, tree } = await prove(recorded.did, carOf(recorded))
    const [method] = documentOf(recorded).verificationMethod
    const key = parseVerificationKey(method?.type ?? '', method?.publicKeyMultibase ?? '')
    expect(isSignedBy(key.didKey, repo)).toBe(true)
    expect(isSignedBy(anotherKey, repo)).toBe(false)
    expect(tree).toEqual({ records: recorded.records, ignored: 0 })
  })
})

test.each(recordedRepos.filter(({ version }) => version === 2))(
  'the repo of version 2 $car is refused by its version',
  async (recorded) => {
    expect(await reasonOf(recorded.did, carOf(recorded))).toBe('unsupported-version')
  },
)

test('blocks in any order, twice, and ones that nobody asked for change nothing but what is counted', async () => {
  const { roots, blocks } = parseCar(carOf(little))
  const list = [...blocks].map(([cid, bytes]) => ({ cid, bytes }))
  const stray = encodeCbor({ stray: true })
  const shuffled = [...list.reverse(), ...list, { cid: cidOf(stray), bytes: stray }]
  const car = writeCar(roots, shuffled)
  expect(await recordsIn(little, car)).toEqual(await recordsIn(little, carOf(little)))
  expect((await prove(little.did, car)).tree.ignored).toBe(1)
})

test('of several roots the first commit counts, and without one there is no repo', async () => {
  const { roots, blocks } = parseCar(carOf(little))
  const list = [...blocks].map(([cid, bytes]) => ({ cid, bytes }))
  const [commit] = roots
  const others = list.map(({ cid }) => cid).filter((cid) => cid !== String(commit))
  const absent = cidOf(encodeCbor({ nowhere: true }))
  const several = [absent, ...others.slice(0, 2), String(commit)]
  expect(await recordsIn(little, writeCar(several, list))).toHaveLength(little.records)
  expect(await reasonOf(little.did, writeCar([absent], list))).toBe('missing-block')
  const none = await reasonOf(little.did, writeCar(others.slice(0, 2), list))
  expect(['malformed-commit', 'unsupported-version']).toContain(none)
})

test('a repo that lacks any one of its blocks is not a whole repo', async () => {
  const { roots, blocks } = parseCar(carOf(little))
  const list = [...blocks].map(([cid, bytes]) => ({ cid, bytes }))
  for (let gone = 0; gone < list.length; gone += 25) {
    expect(await reasonOf(little.did, writeCar(roots, list.toSpliced(gone, 1)))).toBe(
      'missing-block',
    )
  }
})

test('a CAR cut anywhere within a block is truncated, and at the end of one it lacks blocks', async () => {
  const tiny = completeRepos.find(({ car }) => car.includes('repostream-tiny')) as RecordedRepo
  const car = carOf(tiny)
  const found = new Set<string>()
  for (let end = 0; end < car.length; end += 1) {
    found.add(await reasonOf(tiny.did, car.subarray(0, end)))
  }
  expect([...found].sort()).toEqual(['missing-block', 'truncated'])
})

test('a bit flipped anywhere never gives a repo', async () => {
  const tiny = completeRepos.find(({ car }) => car.includes('repostream-tiny')) as RecordedRepo
  const car = carOf(tiny)
  const found = new Set<string>()
  for (let at = 0; at < car.length; at += 1) {
    const broken = Uint8Array.from(car)
    broken[at] = (broken[at] ?? 0) ^ (1 << (at % 8))
    found.add(await reasonOf(tiny.did, broken))
  }
  expect([...found].sort()).toEqual(['block-hash', 'malformed-car', 'missing-block', 'truncated'])
})

test('a CAR of another account is refused', async () => {
  expect(await reasonOf('did:plc:aaaaaaaaaaaaaaaaaaaaaaaa', carOf(little))).toBe('wrong-did')
})

test('an empty answer and one that is no CAR have their reasons', async () => {
  expect(await reasonOf(little.did, new Uint8Array(0))).toBe('truncated')
  expect(
    await reasonOf(
      little.did,
      Buffer.from('<!doctype html><title>Just a moment</title><p>Checking your browser'),
    ),
  ).toBe('malformed-car')
  expect(await reasonOf(little.did, writeCar([], []))).toBe('no-root')
})

test('only collections in scope are given', async () => {
  const { repo, blocks } = await prove(little.did, carOf(little))
  const inScope = scopeOf(['app.bsky.feed.*'])
  const found = [...recordsOf(repo.commit.data, blocks, inScope)]
  const records = found.filter((one): one is RepoRecord => 'record' in one)
  expect(records.every(({ collection }) => inScope(collection))).toBe(true)
  expect(found.filter((one) => 'outOfScope' in one).length).toBe(little.records - records.length)
})

test('the reference implementation finds the same records in every recorded repo', async () => {
  for (const recorded of completeRepos) {
    const { creates } = await verifyRepoCar(carOf(recorded), recorded.did)
    const theirs = creates.map(({ collection, rkey, cid }) => `${collection}/${rkey} ${cid}`)
    const ours = await recordsIn(recorded, carOf(recorded))
    expect(ours.map(({ collection, rkey, cid }) => `${collection}/${rkey} ${cid}`)).toEqual(
      theirs.sort(),
    )
  }
})

test('a record that can not be written is left out by name, and the rest of the repo is not', async () => {
  const records: [key: string, bytes: Uint8Array][] = [
    ['app.bsky.feed.post/3k2akx2qqhk2a', encodeCbor({ text: 'fine' })],
    ['app.bsky.feed.post/3k2akx2qqhk2b', Uint8Array.of(0x1b, 0xff, 0, 0, 0, 0, 0, 0, 0)],
    ['app.bsky.feed.post/3k2akx2qqhk2c', Uint8Array.of(0xbf, 0xff)],
    ['app.bsky.feed.post/3k2akx2qqhk2d', encodeCbor(['a list'])],
    ['app.bsky.feed.post/3k2akx2qqhk2e', encodeCbor({ text: 'x'.repeat(1_000_000) })],
    ['not_an_nsid/self', encodeCbor({ text: 'where is this' })],
  ]
  const tree = openTree(null, new Map())
  for (const [key, bytes] of records) tree.set(key, parseCid(cidOf(bytes)))
  const { root, blocks } = tree.write()
  const rev = little.rev ?? ''
  const unsigned = { did: little.did, rev, data: parseCid(root), prev: null }
  const commit = encodeCommit({ ...unsigned, sig: new Uint8Array(64) })
  const all = [commit, ...blocks.values(), ...records.map(([, bytes]) => bytes)]
  const car = writeCar(
    [cidOf(commit)],
    all.map((bytes) => ({ cid: cidOf(bytes), bytes })),
  )
  const proved = await prove(little.did, car)
  const found = [...recordsOf(proved.repo.commit.data, proved.blocks, () => true)]
  expect(found.map((one) => ('refused' in one ? one.refused : 'record' in one))).toEqual([
    true,
    'not-dag-cbor',
    'not-dag-cbor',
    'not-a-record',
    'too-large',
    'bad-path',
  ])
})
