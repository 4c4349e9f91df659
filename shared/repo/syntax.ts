/** The syntax of DIDs, handles, NSIDs, record keys and AT URIs (spec: one page of each name). */

const did = /^did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]$/
const handle =
  /^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+[a-zA-Z]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$/
const nsid =
  /^[a-zA-Z]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)+\.[a-zA-Z][a-zA-Z0-9]{0,62}$/
const rkey = /^[a-zA-Z0-9_~.:-]{1,512}$/

/** Longest URI of a record that any part of the network accepts, in characters. */
const longestUri = 8 * 1024

export function isDid(text: string): boolean {
  return text.length <= 2_048 && did.test(text)
}

export function isHandle(text: string): boolean {
  return text.length <= 253 && handle.test(text)
}

/** Domain authority and name together have up to 317 characters, the authority alone up to 253. */
export function isNsid(text: string): boolean {
  return text.length <= 317 && nsid.test(text)
}

export function isRkey(text: string): boolean {
  return rkey.test(text) && text !== '.' && text !== '..'
}

/** True for `at://authority`, `at://authority/collection` and `at://authority/collection/rkey`. */
export function isAtUri(text: string): boolean {
  if (text.length > longestUri || !text.startsWith('at://')) return false
  const [authority, collection, key, ...more] = text.slice('at://'.length).split('/')
  if (more.length > 0 || authority === undefined) return false
  if (!isDid(authority) && !isHandle(authority)) return false
  if (collection !== undefined && !isNsid(collection)) return false
  return key === undefined || isRkey(key)
}
