/** An account that makes really signed commits, with `@atproto/repo`'s tree and signing. */
import type { Keypair } from '@atproto/crypto'
import { encode } from '@atproto/lex-cbor'
import { type Cid, cidForCbor, isLexMap, type LexMap } from '@atproto/lex-data'
import { jsonToLex } from '@atproto/lex-json'
import {
  BlockMap,
  blocksToCarFile,
  CidSet,
  DataDiff,
  getFullRepo,
  MemoryBlockstore,
  MST,
  signCommit,
} from '@atproto/repo'
import type { Clock } from './clock.ts'
import type { HostedRepo } from './repos.ts'

/** A record in JSON form: links as `{"$link"}`, bytes as `{"$bytes"}`. */
export type JsonRecord = Record<string, unknown>

export type Write =
  | { action: 'create'; collection: string; rkey?: string; record: JsonRecord }
  | { action: 'update'; collection: string; rkey: string; record: JsonRecord }
  | { action: 'delete'; collection: string; rkey: string }

/** Where a record is and what it is. */
export interface Ref {
  uri: string
  cid: string
}

export interface Written extends Ref {
  rkey: string
}

/** What must exist of an account. */
export interface ExpectedRecord {
  did: string
  collection: string
  rkey: string
  cid: string
  /** The rev of the commit that wrote it last. */
  rev: string
  record: JsonRecord
}

export interface AccountOptions {
  did: string
  handle: string
  key: Keypair
  clock: Clock
  quiet: boolean
  /** One commit at a time in the whole network: their order is the order of the calls. */
  serial: <T>(work: () => Promise<T>) => Promise<T>
  emit: (type: string, body: LexMap) => void
}

interface Head {
  cid: Cid
  rev: string
  /** The signed commit. */
  bytes: Uint8Array
  tree: MST
}

export class Account implements HostedRepo {
  readonly did: string
  readonly active = true
  readonly status = null
  handle: string
  /** While true, commits are made but the relay does not hear of them. */
  quiet: boolean
  readonly #options: AccountOptions
  #storage = new MemoryBlockstore()
  #erased = false
  readonly #records = new Map<string, ExpectedRecord>()
  /** How many records have this content: a block goes when its last record does. */
  readonly #uses = new Map<string, number>()
  #key: Keypair
  #latest: Head | null = null

  constructor(options: AccountOptions) {
    this.#options = options
    this.did = options.did
    this.handle = options.handle
    this.quiet = options.quiet
    this.#key = options.key
  }

  /** The key that signs, as a did:key. */
  get signingKey(): string {
    return this.#key.did()
  }

  get head(): string | null {
    return this.#latest?.cid.toString() ?? null
  }

  get rev(): string | null {
    return this.#latest?.rev ?? null
  }

  /** Signs with this key from the next commit on; the identity is for the caller to change. */
  set key(key: Keypair) {
    this.#key = key
  }

  /** What must exist, by URI; nothing of an account that was erased. */
  records(): ReadonlyMap<string, ExpectedRecord> {
    return this.#records
  }

  create(collection: string, record: JsonRecord, rkey?: string): Promise<Written> {
    return this.#one({ action: 'create', collection, record, ...(rkey !== undefined && { rkey }) })
  }

  update(collection: string, rkey: string, record: JsonRecord): Promise<Written> {
    return this.#one({ action: 'update', collection, rkey, record })
  }

  async delete(collection: string, rkey: string): Promise<void> {
    await this.applyWrites([{ action: 'delete', collection, rkey }])
  }

  /** One commit with these writes, in this order; none at all is legal. Answers the records written. */
  applyWrites(writes: readonly Write[]): Promise<Written[]> {
    return this.#options.serial(() => this.#commit(writes))
  }

  /** A commit that changes nothing and that the relay does not hear of, as the import at a new PDS makes one. */
  async resign(): Promise<void> {
    await this.#options.serial(() => this.#commit([], true))
  }

  /** Nothing is left of it; it can make no further commit. */
  async erase(): Promise<void> {
    await this.#options.serial(async () => {
      this.#records.clear()
      this.#uses.clear()
      this.#storage = new MemoryBlockstore()
      this.#latest = null
      this.#erased = true
    })
  }

  /** The body of a `#sync` event: the newest commit and nothing else. Throws before the first one. */
  async syncBody(): Promise<LexMap> {
    if (this.#latest === null) throw new Error(`${this.did} has no commit yet`)
    const { cid, rev, bytes } = this.#latest
    const blocks = await blocksToCarFile(cid, new BlockMap([[cid, bytes]]))
    return { did: this.did, rev, blocks }
  }

  /** The whole repo as of one commit. */
  car(): Promise<Uint8Array> {
    return this.#options.serial(async () => {
      if (this.#latest === null) throw new Error(`${this.did} has no commit yet`)
      const chunks: Uint8Array[] = []
      for await (const chunk of getFullRepo(this.#storage, this.#latest.cid)) chunks.push(chunk)
      return Buffer.concat(chunks)
    })
  }

  async #one(write: Write): Promise<Written> {
    const [written] = await this.applyWrites([write])
    if (written === undefined) throw new Error('nothing was written')
    return written
  }

  async #commit(writes: readonly Write[], quiet = false): Promise<Written[]> {
    if (this.#erased) throw new Error(`${this.did} was deleted`)
    const before = this.#latest
    const ops: LexMap[] = []
    const written: Written[] = []
    const leaves = new BlockMap()
    const rev = this.#options.clock.tid()
    let tree = before?.tree ?? (await MST.create(this.#storage))
    const changes: (() => void)[] = []

    for (const write of writes) {
      const { action, collection } = write
      const rkey = write.rkey ?? this.#options.clock.tid()
      const path = `${collection}/${rkey}`
      const uri = `at://${this.did}/${path}`
      const prev = await tree.get(path)
      if (action === 'delete') {
        tree = await tree.delete(path)
        // Emptied, it would keep the layer of what it held, and the next record would stand too low.
        if ((await tree.getEntries()).length === 0) tree = await MST.create(this.#storage)
        ops.push({ action, path, cid: null, ...(prev && { prev }) })
        changes.push(() => this.#forget(uri))
        continue
      }
      const json = { $type: collection, ...write.record }
      const cid = await leaves.add(toLex(json))
      tree = action === 'create' ? await tree.add(path, cid) : await tree.update(path, cid)
      ops.push({ action, path, cid, ...(prev && { prev }) })
      written.push({ uri, cid: cid.toString(), rkey })
      const expected = { did: this.did, collection, rkey, cid: cid.toString(), rev, record: json }
      changes.push(() => this.#remember(uri, expected))
    }

    const data = await tree.getPointer()
    const diff = await DataDiff.of(tree, before?.tree ?? null)
    const commit = await signCommit({ did: this.did, version: 3, rev, prev: null, data }, this.#key)
    const bytes = encode(commit)
    const cid = await cidForCbor(bytes)
    const newBlocks = new BlockMap(
      [[cid, bytes] as const, ...diff.newMstBlocks, ...leaves].map(([cid, bytes]) => [
        cid,
        own(bytes),
      ]),
    )

    // Sync 1.1: what changed, and what a reader needs to invert the operations.
    const proof = new BlockMap(newBlocks)
    for (const { path } of ops) proof.addMap(await tree.getCoveringProof(String(path)))

    for (const change of changes) change()
    const removed = diff.removedCids.toList().filter((gone) => !this.#uses.has(gone.toString()))
    if (before !== null) removed.push(before.cid)
    await this.#storage.applyCommit({
      cid,
      rev,
      since: before?.rev ?? null,
      prev: before?.cid ?? null,
      newBlocks,
      relevantBlocks: proof,
      removedCids: new CidSet(removed),
    })
    this.#latest = { cid, rev, bytes, tree }

    if (quiet || this.quiet) return written
    this.#options.emit('#commit', {
      repo: this.did,
      commit: cid,
      rev,
      since: before?.rev ?? null,
      blocks: await blocksToCarFile(cid, proof),
      ops,
      ...(before !== null && { prevData: await before.tree.getPointer() }),
      blobs: [],
      rebase: false,
      tooBig: false,
    })
    return written
  }

  #remember(uri: string, expected: ExpectedRecord): void {
    this.#forget(uri)
    this.#records.set(uri, expected)
    this.#uses.set(expected.cid, (this.#uses.get(expected.cid) ?? 0) + 1)
  }

  #forget(uri: string): void {
    const cid = this.#records.get(uri)?.cid
    if (cid === undefined) return
    this.#records.delete(uri)
    const left = (this.#uses.get(cid) ?? 1) - 1
    if (left > 0) this.#uses.set(cid, left)
    else this.#uses.delete(cid)
  }
}

/** A copy: encoded bytes are views of Node's 64 KiB pool, of which one kept block keeps all alive. */
function own(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes)
}

function toLex(json: JsonRecord): LexMap {
  const value = jsonToLex(json as Parameters<typeof jsonToLex>[0], { strict: true })
  if (!isLexMap(value)) throw new TypeError('a record is a map')
  return value
}
