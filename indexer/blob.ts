/** Blob references as records hold them, in all the forms that were ever written. */

/**
 * The CID of a blob as text, or null without one. Read are `{ ref: { $link } }`, the plain `ref`
 * text of some writers, and the `{ cid, mimeType }` of before 2023.
 */
export function blobCid(blob: unknown): string | null {
  if (!isObject(blob)) return null
  const { ref, cid } = blob
  if (typeof ref === 'string') return ref
  if (isObject(ref) && typeof ref['$link'] === 'string') return ref['$link']
  return typeof cid === 'string' ? cid : null
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}
