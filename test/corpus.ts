/** The recorded network: relay frames with what Jetstream emitted for them, and whole repos with their keys. */
import type { DidDocument } from '../simulator/documents.ts'
import { sharedBytes, sharedJson, sharedJsonLines } from './data.ts'

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

/** A recorded repo. */
export interface RecordedRepo {
  /** The file, as `cars/name/repo.car`. */
  car: string
  did: string
  version: number
  rev?: string
  records: number
  missing: number
  collections: Record<string, number>
}

export function recordedRepos(): RecordedRepo[] {
  return sharedJsonLines<RecordedRepo>('cars/expected.jsonl')
}

/** The complete v3 repos, each account in its newest state. */
export function completeRepos(): RecordedRepo[] {
  const complete = recordedRepos().filter(({ version, missing }) => version === 3 && missing === 0)
  return [...new Map(complete.map((repo) => [repo.did, repo])).values()]
}

export function carBytes(repo: RecordedRepo): Uint8Array {
  return sharedBytes(repo.car)
}

/** A document with the key that the repo's commit is signed with. */
export function documentOf(repo: RecordedRepo): DidDocument {
  const recovered = sharedJson<{ keys: { did: string; publicKeyMultibase: string }[] }>(
    'cars/recovered_keys.json',
  )
  const found = recovered.keys.find(({ did }) => did === repo.did)?.publicKeyMultibase
  const [method] = found === undefined ? besideCar(repo) : []
  return {
    id: repo.did,
    alsoKnownAs: [],
    verificationMethod: [
      {
        id: `${repo.did}#atproto`,
        type: method?.type ?? 'Multikey',
        controller: repo.did,
        publicKeyMultibase: found ?? method?.['publicKeyMultibase'] ?? '',
      },
    ],
    service: [
      {
        id: '#atproto_pds',
        type: 'AtprotoPersonalDataServer',
        serviceEndpoint: 'https://pds.invalid',
      },
    ],
  }
}

/** The document that was kept beside the CAR; for one account it is of another DID with the same key. */
function besideCar(repo: RecordedRepo): NonNullable<DidDocument['verificationMethod']> {
  const document = sharedJson<DidDocument>(repo.car.replace('repo.car', 'did_doc.json'))
  return document.verificationMethod ?? []
}
