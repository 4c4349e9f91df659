/** The parts of AT URIs that name a record or an account. */

export interface UriParts {
  authority: string
  collection: string
  rkey: string
}

/** The parts of a URI; those that it lacks are empty. Query and fragment are left out. */
export function partsOf(uri: string): UriParts {
  const path = uri.startsWith('at://') ? uri.slice('at://'.length) : uri
  const [authority = '', collection = '', rkey = ''] = path.split(/[?#]/, 1)[0]?.split('/') ?? []
  return { authority, collection, rkey }
}

/** The account that a URI names. */
export function authorOf(uri: string): string {
  return partsOf(uri).authority
}
