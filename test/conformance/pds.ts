/** Accounts on the reference's PDS: they write as the simulator's accounts do, and the reference follows in order. */
import type { JsonRecord, Write, Written } from '../../simulator/account.ts'
import { tinyJpeg } from './jpeg.ts'
import type { ReferenceNetwork } from './network.ts'

/** An account of the reference's PDS. */
export interface PdsAccount {
  readonly did: string
  readonly handle: string
  create(collection: string, record: JsonRecord, rkey?: string): Promise<Written>
  update(collection: string, rkey: string, record: JsonRecord): Promise<Written>
  delete(collection: string, rkey: string): Promise<void>
  applyWrites(writes: readonly Write[]): Promise<Written[]>
  /** A blob of these bytes, as records hold it. */
  upload(bytes: Uint8Array, mimeType: string): Promise<JsonRecord>
  /** Any procedure of the PDS, or of the AppView through it, in this account's name. */
  call(method: string, body?: JsonRecord | null): Promise<unknown>
  /** The same without waiting for the reference. */
  send(method: string, body?: JsonRecord | Uint8Array | null, type?: string): Promise<unknown>
}

const password = 'a-long-password'
const film = Buffer.from('00000018667479706d703432000000006d70343269736f6d', 'hex')

/** Creates it. What it writes is not validated, and is indexed by the reference before the call resolves. */
export async function createPdsAccount(
  network: ReferenceNetwork,
  handle: string,
): Promise<PdsAccount> {
  const made = (await xrpc(network.pds, 'com.atproto.server.createAccount', {
    body: { handle, email: `${handle}@mail.test`, password },
  })) as { did: string; accessJwt: string }
  await network.settle()
  const { did, accessJwt } = made
  const headers = { authorization: `Bearer ${accessJwt}` }
  const send: PdsAccount['send'] = (method, body = null, type = 'application/json') =>
    xrpc(network.pds, method, { body, type, headers })
  const call: PdsAccount['call'] = async (method, body) => {
    const answer = await send(method, body)
    await network.settle()
    return answer
  }
  const upload: PdsAccount['upload'] = async (bytes, mimeType) => {
    const answer = await send('com.atproto.repo.uploadBlob', bytes, mimeType)
    return (answer as { blob: JsonRecord }).blob
  }
  /** Blobs that nobody has uploaded are not taken. */
  const withBlobs = async (value: unknown): Promise<unknown> => {
    if (Array.isArray(value)) return Promise.all(value.map(withBlobs))
    if (value === null || typeof value !== 'object') return value
    const { $type, mimeType } = value as JsonRecord
    if ($type === 'blob') {
      return mimeType === 'video/mp4'
        ? upload(film, 'video/mp4')
        : upload(tinyJpeg(4), 'image/jpeg')
    }
    const entries = Object.entries(value).map(async ([key, part]) => [key, await withBlobs(part)])
    return Object.fromEntries(await Promise.all(entries))
  }
  const apply = async (writes: readonly Write[]): Promise<Written[]> => {
    const body = {
      repo: did,
      validate: false,
      writes: await Promise.all(
        writes.map(async (write) => ({
          $type: `com.atproto.repo.applyWrites#${write.action}`,
          collection: write.collection,
          ...(write.rkey !== undefined && { rkey: write.rkey }),
          ...('record' in write && {
            value: { $type: write.collection, ...((await withBlobs(write.record)) as JsonRecord) },
          }),
        })),
      ),
    }
    const answer = await call('com.atproto.repo.applyWrites', body)
    const { results } = answer as { results: { uri?: string; cid?: string }[] }
    return results.flatMap(({ uri, cid }) =>
      uri && cid ? [{ uri, cid, rkey: uri.slice(uri.lastIndexOf('/') + 1) }] : [],
    )
  }
  const one = async (write: Write): Promise<Written> => {
    const [written] = await apply([write])
    if (written === undefined) throw new Error(`nothing was written by ${write.action}`)
    return written
  }
  return {
    did,
    handle,
    create: (collection, record, rkey) =>
      one({ action: 'create', collection, record, ...(rkey !== undefined && { rkey }) }),
    update: (collection, rkey, record) => one({ action: 'update', collection, rkey, record }),
    delete: async (collection, rkey) =>
      void (await apply([{ action: 'delete', collection, rkey }])),
    applyWrites: apply,
    upload,
    call,
    send,
  }
}

export interface Call {
  headers?: Record<string, string>
  /** Sent as it is when it is bytes; null where a procedure takes none; absent for a query. */
  body?: JsonRecord | Uint8Array | null
  type?: string
}

/** An XRPC call that must succeed; gives what it answers, or null. */
export async function xrpc(service: string, method: string, call: Call): Promise<unknown> {
  const { headers = {}, body, type = 'application/json' } = call
  const response = await fetch(`${service}/xrpc/${method}`, {
    method: body === undefined ? 'GET' : 'POST',
    headers: body ? { ...headers, 'content-type': type } : headers,
    ...(body && {
      body: body instanceof Uint8Array ? new Uint8Array(body) : JSON.stringify(body),
    }),
  })
  const text = await response.text()
  if (!response.ok) throw new Error(`${method}: ${response.status} ${text}`)
  return text === '' ? null : JSON.parse(text)
}
