/** The recorded relay frames: the DID documents of their accounts, and what Jetstream emitted for them. */
import type { DidDocument } from '../simulator/documents.ts'
import { sharedFrames, sharedJson, sharedJsonLines } from './data.ts'

export interface ExpectedCommit {
  operation: 'create' | 'update' | 'delete'
  uri: string
  collection: string
  cid?: string
  record?: Record<string, unknown>
}

interface JetstreamLine {
  did: string
  commit: Omit<ExpectedCommit, 'uri'> & { rkey: string }
}

/** 100 frames, contiguous, as a production relay sent them. */
export function corpusFrames(): Uint8Array[] {
  return sharedFrames('firehose/jetstream-corpus/frames.bin')
}

export function corpusDocuments(): DidDocument[] {
  return Object.values(sharedJson('firehose/jetstream-corpus/did_docs.json'))
}

/** What production Jetstream emitted for the recorded frames. */
export function expectedCommits(): ExpectedCommit[] {
  const lines = sharedJsonLines<JetstreamLine>(
    'firehose/jetstream-corpus/expected_jetstream_v1.jsonl',
  )
  return lines.map(({ did, commit: { rkey, ...commit } }) => ({
    ...commit,
    uri: `at://${did}/${commit.collection}/${rkey}`,
  }))
}
