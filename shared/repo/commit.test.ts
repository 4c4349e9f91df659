import { expect, test } from 'vitest'
import { sharedBytes, sharedFrames, sharedJson, sharedJsonLines } from '../../test/data.ts'
import { parseCar } from './car.ts'
import { decodeCbor, encodeCbor, type IpldMap, isMap } from './cbor.ts'
import { type Cid, cidOf, parseCid } from './cid.ts'
import { CommitError, decodeCommit, encodeCommit, openCommit, unsignedBytes } from './commit.ts'
import { invertOps, type RecordOp } from './mst-tree.ts'
import { parseDidKey, parseVerificationKey, verifySignature } from './signature.ts'

interface DidDocument {
  verificationMethod: { type: string; publicKeyMultibase: string }[]
}

/** The body of a recorded #commit frame, as far as it is proved. */
interface Body {
  repo: string
  rev: string
  commit: Cid
  blocks: Uint8Array
  prevData: Cid
  ops: (Omit<RecordOp, 'prev'> & { prev?: Cid })[]
}

function bodyOf(frame: Uint8Array): Body {
  const header = encodeCbor({ t: '#commit', op: 1 })
  expect(Buffer.compare(frame.subarray(0, header.length), header)).toBe(0)
  return decodeCbor(frame.subarray(header.length)) as unknown as Body
}

const documents = sharedJson<Record<string, DidDocument>>('firehose/jetstream-corpus/did_docs.json')
const bodies = sharedFrames('firehose/jetstream-corpus/frames.bin').map(bodyOf)

test('each of the 100 recorded commits is proved: blocks, signature, and ops back to prevData', () => {
  expect(bodies).toHaveLength(100)
  for (const { repo, rev, commit: cid, blocks, ops, prevData } of bodies) {
    const car = parseCar(blocks)
    expect(car.roots.map(String)).toEqual([cid.toString()])
    const { commit, unsigned } = openCommit(car.blocks.get(cid.toString()) ?? new Uint8Array(0))
    expect([commit.did, commit.rev]).toEqual([repo, rev])
    const [method] = documents[repo]?.verificationMethod ?? []
    const key = parseVerificationKey(method?.type ?? '', method?.publicKeyMultibase ?? '')
    expect(verifySignature(key, unsigned, commit.sig)).toBe(true)
    const recordOps = ops.map((op) => ({ ...op, prev: op.prev ?? null }))
    expect(invertOps(commit.data, car.blocks, recordOps)).toBe(prevData.toString())
  }
})

test('a recorded commit with one bit changed does not verify', () => {
  const [body] = bodies
  if (!body) throw new Error('no frame')
  const bytes = parseCar(body.blocks).blocks.get(body.commit.toString()) ?? new Uint8Array(0)
  const [method] = documents[body.repo]?.verificationMethod ?? []
  const key = parseVerificationKey(method?.type ?? '', method?.publicKeyMultibase ?? '')
  const { commit, unsigned } = openCommit(bytes)
  for (const [index, byte] of unsigned.entries()) {
    const changed = unsigned.slice()
    changed[index] = byte ^ 1
    expect(verifySignature(key, changed, commit.sig)).toBe(false)
  }
})

interface RecoveredKeys {
  keys: { did: string; publicKeyMultibase: string }[]
}

const recovered = new Map(
  sharedJson<RecoveredKeys>('cars/recovered_keys.json').keys.map((key) => [key.did, key]),
)
const repos = sharedJsonLines<{ car: string; did: string; version: number }>('cars/expected.jsonl')

test.each(repos.filter(({ did }) => recovered.has(did)))(
  'the commit of the recorded repo is signed by the key that is known for it: $car',
  ({ car: path, did }) => {
    const car = parseCar(sharedBytes(path))
    const { commit, unsigned } = openCommit(
      car.blocks.get(String(car.roots[0])) ?? new Uint8Array(0),
    )
    expect(commit.did).toBe(did)
    const key = parseDidKey(recovered.get(did)?.publicKeyMultibase ?? '')
    expect(verifySignature(key, unsigned, commit.sig)).toBe(true)
  },
)

test.each(repos.filter(({ version }) => version === 2))(
  'the commit of a recorded repo of version 2 is told from a broken one: $car',
  ({ car: path }) => {
    const car = parseCar(sharedBytes(path))
    expect(codeOf(car.blocks.get(String(car.roots[0])) ?? new Uint8Array(0))).toBe(
      'unsupported-version',
    )
  },
)

const data = parseCid(cidOf(Buffer.from('a tree')))
const sig = new Uint8Array(64).fill(7)
const aCommit = {
  did: 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa',
  data,
  rev: '3mptbypluud2a',
  prev: null,
  sig,
}

test('a commit is read as it was written, and signed over all but its signature', () => {
  const bytes = encodeCommit(aCommit)
  expect(decodeCommit(bytes)).toMatchObject({ did: aCommit.did, rev: aCommit.rev, prev: null })
  expect(decodeCommit(bytes).data.toString()).toBe(data.toString())
  const { sig: _, ...unsigned } = aCommit
  expect(Buffer.compare(unsignedBytes(bytes), encodeCommit(unsigned))).toBe(0)
})

test('a field that we do not know is signed too, and a prev that is missing is none', () => {
  const { prev: _, ...fields } = decoded(encodeCommit(aCommit))
  const bytes = encodeCbor({ ...fields, later: 1 })
  expect(decodeCommit(bytes).prev).toBeNull()
  expect(decoded(unsignedBytes(bytes))['later']).toBe(1)
})

test.each([0, 1, 16, 17, 18, 30])(
  'what was signed is the same, cut out or encoded anew: %i fields more',
  (more) => {
    const { sig: _, ...fields } = decoded(encodeCommit(aCommit))
    const extra = Object.fromEntries(Array.from({ length: more }, (_, at) => [`later${at}`, at]))
    for (const length of [0, 23, 24, 63, 64, 65, 300]) {
      const bytes = encodeCbor({ ...fields, ...extra, sig: new Uint8Array(length).fill(7) })
      // As it comes: within other bytes.
      const within = Buffer.concat([Buffer.of(1, 2, 3), bytes]).subarray(3)
      expect(Buffer.compare(openCommit(within).unsigned, unsignedBytes(bytes))).toBe(0)
    }
  },
)

function decoded(bytes: Uint8Array): IpldMap {
  const value = decodeCbor(bytes)
  if (!isMap(value)) throw new Error('not a map')
  return value
}

function codeOf(bytes: Uint8Array): string {
  try {
    openCommit(bytes)
  } catch (error) {
    if (error instanceof CommitError) return error.code
    throw error
  }
  return 'no error'
}

test.each([
  ['did', 'alice'],
  ['did', null],
  ['data', null],
  ['data', data.toString()],
  ['data', parseCid(cidOf(Buffer.from('a'), 'raw'))],
  ['rev', '3mptbypluud2'],
  ['rev', 7],
  ['prev', 'none'],
  ['sig', 'text'],
  ['sig', null],
])('a commit whose %s is wrong is refused', (field, value) => {
  expect(codeOf(encodeCbor({ ...decoded(encodeCommit(aCommit)), [field]: value }))).toBe(
    'malformed',
  )
})

test('repos of another version are refused by a code of their own', () => {
  for (const version of [2, 4, '3', null]) {
    const bytes = encodeCbor({ ...decoded(encodeCommit(aCommit)), version })
    expect(codeOf(bytes)).toBe('unsupported-version')
  }
})

test('what is no map, or no DAG-CBOR, is no commit', () => {
  for (const bytes of ['80', 'f6', '', 'ff', 'a1'])
    expect(codeOf(Buffer.from(bytes, 'hex'))).toBe('malformed')
})
