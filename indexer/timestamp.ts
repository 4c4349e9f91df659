/** The one normaliser of the times that records carry: milliseconds and `Z`, comparable as text. */

/** What an unreadable time becomes. */
export const epoch = '1970-01-01T00:00:00.000Z'

const hasZone = /[+-]\d\d:?\d\d|\dZ\b|\b[A-Z]{3,4}\b/

/**
 * The time in ISO form with milliseconds, or the epoch when it can't be read or its year has not
 * four digits. A time without a zone is UTC.
 */
export function normaliseTime(text: string): string {
  const readings = hasZone.test(text) ? [text] : [`${text}Z`, `${text} UTC`, text]
  for (const reading of readings) {
    const date = new Date(reading)
    const year = date.getUTCFullYear()
    if (year >= 0 && year <= 9999) return date.toISOString()
  }
  return epoch
}

/** The earlier of two normalised times. */
export function earlier(a: string, b: string): string {
  return a < b ? a : b
}
