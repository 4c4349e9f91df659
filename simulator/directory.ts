/** Every identity of the network: PLC logs, DID documents, handles. */
import {
  claimedHandle,
  type DidDocument,
  documentOf,
  latestData,
  type PlcEntry,
} from './documents.ts'

export interface Directory {
  /** The document; null when the identity was tombstoned, undefined when there is none. */
  document(did: string): DidDocument | null | undefined
  /** The audit log; empty when the identity is unknown or was given as a document only. */
  log(did: string): readonly PlcEntry[]
  /** Every operation of every log, the oldest first. */
  operations(): readonly PlcEntry[]
  /** The DID of the identity that claims the handle. */
  resolveHandle(handle: string): string | null
  setDocument(document: DidDocument): void
  /** Whoever asks for it finds nothing any more. */
  forget(did: string): void
  /** Appends to an identity's log; its document is made anew. */
  append(entry: PlcEntry): void
}

export function createDirectory(): Directory {
  const documents = new Map<string, DidDocument | null>()
  const logs = new Map<string, PlcEntry[]>()
  const handles = new Map<string, string>()
  const operations: PlcEntry[] = []

  const set = (did: string, document: DidDocument | null) => {
    const before = documents.get(did)
    const old = before ? claimedHandle(before) : null
    if (old !== null && handles.get(old) === did) handles.delete(old)
    documents.set(did, document)
    const handle = document === null ? null : claimedHandle(document)
    if (handle !== null) handles.set(handle, did)
  }

  return {
    document: (did) => documents.get(did),
    log: (did) => logs.get(did) ?? [],
    resolveHandle: (handle) => handles.get(handle.toLowerCase()) ?? null,
    operations: () => operations.toSorted(byTime),
    forget: (did) => set(did, null),
    setDocument: (document) => set(document.id, document),
    append(entry) {
      const { did } = entry
      const log = logs.get(did) ?? []
      log.push(entry)
      operations.push(entry)
      logs.set(did, log)
      const data = latestData(log)
      if (data !== undefined) set(did, data === null ? null : documentOf(did, data))
    },
  }
}

function byTime(a: PlcEntry, b: PlcEntry): number {
  return a.createdAt < b.createdAt ? -1 : a.createdAt > b.createdAt ? 1 : 0
}
