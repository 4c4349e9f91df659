/** The recorded repos, each with the account it belongs to. */
import { sharedBytes, sharedJson, sharedJsonLines } from './data.ts'

export interface RecordedRepo {
  /** As `cars/…/repo.car`. */
  car: string
  did: string
  version: number
  rev?: string
  records: number
  missing: number
  collections: Record<string, number>
}

interface Method {
  id: string
  type: string
  controller: string
  publicKeyMultibase: string
}

const recovered = sharedJson<{ keys: { did: string; publicKeyMultibase: string }[] }>(
  'cars/recovered_keys.json',
)

/** What each CAR holds, as another implementation counted it. */
export const recordedRepos = sharedJsonLines<RecordedRepo>('cars/expected.jsonl')

/** Complete repos of today's version; of the account with several states, the newest one only. */
export const completeRepos = recordedRepos.filter(
  ({ car, version, missing }) =>
    version === 3 && missing === 0 && !/dnproto-lifecycle\/0[1-6]/.test(car),
)

export function carOf(repo: RecordedRepo): Uint8Array {
  return sharedBytes(repo.car)
}

/** A DID document for the account, with a key that its commit is signed with. */
export function documentOf({ did, car }: RecordedRepo, pds = 'http://pds.test') {
  return {
    '@context': ['https://www.w3.org/ns/did/v1'],
    id: did,
    alsoKnownAs: [`at://${did.slice(-8)}.test`],
    verificationMethod: [{ ...methodOf(did, car), id: '#atproto', controller: did }],
    service: [{ id: '#atproto_pds', type: 'AtprotoPersonalDataServer', serviceEndpoint: pds }],
  }
}

function methodOf(did: string, car: string): Method {
  const key = recovered.keys.find((candidate) => candidate.did === did)
  if (key !== undefined) {
    const { publicKeyMultibase } = key
    return { id: '', controller: '', type: 'Multikey', publicKeyMultibase }
  }
  const folder = car.slice(0, car.lastIndexOf('/'))
  const file = folder.endsWith('slice-partial')
    ? `${folder}/z5vnbioquyhivxirw3bbljmu.didDoc.json`
    : `${folder}/did_doc.json`
  const [method] = sharedJson<{ verificationMethod: Method[] }>(file).verificationMethod
  if (method === undefined) throw new Error(`no key for ${did}`)
  return method
}
