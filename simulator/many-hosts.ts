/**
 * Thousands of PDSes in one process, each at a loopback address of its own, with a directory and a
 * relay that lists them. Repos are made when they are asked for. Needs 127.0.0.0/8, as Linux has it.
 */
import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import { Secp256k1Keypair } from '@atproto/crypto'
import { writeCar } from '../shared/repo/car.ts'
import { encodeCbor } from '../shared/repo/cbor.ts'
import { type Cid, linkOf, parseCid } from '../shared/repo/cid.ts'
import { encodeCommit } from '../shared/repo/commit.ts'
import { openTree } from '../shared/repo/mst-tree.ts'
import { tidOf } from '../shared/repo/tid.ts'

/** How a host treats its clients; all but `good` never give a repo that can be used. */
export type Manner = 'good' | 'slow' | 'silent' | 'failing' | 'lying'

export interface ManyHostsOptions {
  hosts: number
  accounts: number
  /** What a host is like; default good. */
  mannerOf?: (host: number) => Manner
  /** Records of an account's repo; default 3. */
  recordsOf?: (account: number) => number
  /** getRepo requests that a host answers in a second; more are 429. */
  perSecond?: number
  /** How long a good host takes to answer. */
  latencyMs?: number
}

export interface ManyHosts extends AsyncDisposable {
  /** Directory and relay. */
  readonly url: string
  hostUrl: (host: number) => string
  /** The host of an account; accounts are dealt out in turn. */
  hostOf: (account: number) => number
  didOf: (account: number) => string
  /** getRepo requests answered with a repo, by host; and those refused for their number. */
  readonly served: Uint32Array
  readonly refused: Uint32Array
  /** How often the repo of each account was given out. */
  readonly given: Uint32Array
}

/** Of the package that has no types: makes a low-S signature in 30 µs. */
const { ecdsaSign } = createRequire(import.meta.url)('secp256k1') as {
  ecdsaSign: (hash: Uint8Array, secret: Uint8Array) => { signature: Uint8Array }
}

const rev = tidOf(1_700_000_000_000_000)
const maxPage = 1_000

export async function startManyHosts(options: ManyHostsOptions): Promise<ManyHosts> {
  const { hosts, accounts, perSecond = Number.POSITIVE_INFINITY, latencyMs = 0 } = options
  const { mannerOf = () => 'good', recordsOf = () => 3 } = options
  const key = await makeKey()
  const trees = new Map<number, Tree>()
  const served = new Uint32Array(hosts)
  const refused = new Uint32Array(hosts)
  const given = new Uint32Array(accounts)
  const windows = Array.from({ length: hosts }, () => ({ second: 0, used: 0 }))
  const server = createServer((request, response) => {
    answer(request, response).catch(() => response.destroy())
  })
  server.keepAliveTimeout = 60_000
  await new Promise<void>((resolve) => server.listen(0, '0.0.0.0', 4_096, resolve))
  const { port } = server.address() as AddressInfo
  const hostUrl = (host: number) => `http://127.1.${host >> 8}.${host & 255}:${port}`
  const hostOf = (account: number) => account % hosts

  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    const url = new URL(request.url ?? '/', 'http://host')
    const [, high, low] = /^127\.1\.(\d+)\.(\d+):/.exec(request.headers.host ?? '') ?? []
    if (high === undefined) return json(response, 200, directory(url))
    const host = Number(high) * 256 + Number(low)
    if (url.pathname.endsWith('.listRepos')) return json(response, 200, listRepos(host, url))
    if (!url.pathname.endsWith('.getRepo')) return json(response, 501, { error: 'Unknown' })
    return getRepo(host, accountOf(url.searchParams.get('did') ?? ''), response)
  }

  const directory = (url: URL): object => {
    if (url.pathname.endsWith('.listHosts')) {
      const from = Number(url.searchParams.get('cursor') ?? 0)
      const list = page(from, hosts).map((host) => ({ hostname: new URL(hostUrl(host)).host }))
      return { hosts: list, ...cursorAfter(from, hosts) }
    }
    const did = decodeURIComponent(url.pathname.slice(1))
    return {
      id: did,
      alsoKnownAs: [],
      verificationMethod: [
        {
          id: `${did}#atproto`,
          type: 'Multikey',
          controller: did,
          publicKeyMultibase: key.did.slice('did:key:'.length),
        },
      ],
      service: [
        {
          id: '#atproto_pds',
          type: 'AtprotoPersonalDataServer',
          serviceEndpoint: hostUrl(hostOf(accountOf(did))),
        },
      ],
    }
  }

  const listRepos = (host: number, url: URL): object => {
    const mine = Math.ceil((accounts - host) / hosts)
    const from = Number(url.searchParams.get('cursor') ?? 0)
    const repos = page(from, mine).map((number) => {
      const did = didOf(number * hosts + host)
      return { did, head: linkOf(Buffer.from(did)).toString(), rev, active: true }
    })
    return { repos, ...cursorAfter(from, mine) }
  }

  const getRepo = async (host: number, account: number, response: ServerResponse) => {
    const manner = mannerOf(host)
    if (manner === 'silent') return
    if (manner === 'failing') return json(response, 503, { error: 'Unavailable' })
    const window = windows[host] ?? { second: 0, used: 0 }
    const second = Math.floor(Date.now() / 1_000)
    if (window.second !== second) Object.assign(window, { second, used: 0 })
    window.used += 1
    if (window.used > perSecond) {
      refused[host] = (refused[host] ?? 0) + 1
      return json(response, 429, { error: 'RateLimitExceeded' }, { 'retry-after': '1' })
    }
    const whose = manner === 'lying' ? (account + hosts) % accounts : account
    const records = recordsOf(account)
    const tree = trees.get(records) ?? makeTree(records)
    trees.set(records, tree)
    const car = makeRepo(didOf(whose), tree, key)
    if (latencyMs > 0) await new Promise((resolve) => setTimeout(resolve, latencyMs))
    response.writeHead(200, { 'content-type': 'application/vnd.ipld.car' })
    if (manner === 'slow') {
      let at = 0
      const drip = setInterval(() => response.write(car.subarray(at, ++at)), 200)
      response.on('close', () => clearInterval(drip))
      return
    }
    served[host] = (served[host] ?? 0) + 1
    given[account] = (given[account] ?? 0) + 1
    response.end(car)
  }

  return {
    url: `http://127.0.0.1:${port}`,
    ...{ hostUrl, hostOf, didOf, served, refused, given },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

function page(from: number, end: number): number[] {
  const length = Math.max(0, Math.min(maxPage, end - from))
  return Array.from({ length }, (_, index) => from + index)
}

function cursorAfter(from: number, end: number): { cursor?: string } {
  return from + maxPage < end ? { cursor: String(from + maxPage) } : {}
}

const digits = 'abcdefghijklmnopqrstuvwxyz234567'

function didOf(account: number): string {
  let text = ''
  for (let rest = account; text.length < 24; rest = Math.floor(rest / 32)) {
    text = digits[rest % 32] + text
  }
  return `did:plc:${text}`
}

function accountOf(did: string): number {
  let account = 0
  for (const char of did.slice('did:plc:'.length)) account = account * 32 + digits.indexOf(char)
  return account
}

interface Key {
  did: string
  sign: (bytes: Uint8Array) => Uint8Array
}

async function makeKey(): Promise<Key> {
  const secret = createHash('sha256').update('many hosts').digest()
  const did = (await Secp256k1Keypair.import(secret)).did()
  return { did, sign: (bytes) => ecdsaSign(hash(bytes), secret).signature }
}

const hash = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest()

/** What all repos of one size have in common: all but the commit. */
interface Tree {
  root: Cid
  /** The sections of a CAR with its records and nodes. */
  sections: Uint8Array
}

function makeTree(records: number): Tree {
  const blocks: { cid: Cid; bytes: Uint8Array }[] = []
  const tree = openTree(null, new Map())
  for (let number = 0; number < records; number += 1) {
    const createdAt = new Date(1_700_000_000_000 + number).toISOString()
    const bytes = encodeCbor({ $type: 'app.bsky.feed.post', text: `post ${number}`, createdAt })
    const cid = linkOf(bytes)
    blocks.push({ cid, bytes })
    tree.set(`app.bsky.feed.post/${tidOf(1_690_000_000_000_000 + number * 1_000_003)}`, cid)
  }
  const { root, blocks: nodes } = tree.write()
  for (const bytes of nodes.values()) blocks.push({ cid: linkOf(bytes), bytes })
  const sections = writeCar([], blocks).subarray(writeCar([], []).length)
  return { root: parseCid(root), sections }
}

function makeRepo(did: string, { root, sections }: Tree, key: Key): Uint8Array {
  const unsigned = { did, rev, data: root, prev: null }
  const commit = encodeCommit({ ...unsigned, sig: key.sign(encodeCommit(unsigned)) })
  const cid = linkOf(commit)
  return Buffer.concat([writeCar([cid], [{ cid, bytes: commit }]), sections])
}

function json(
  response: ServerResponse,
  status: number,
  body: object,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers })
  response.end(JSON.stringify(body))
}
