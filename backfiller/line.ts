/** A line of those who wait. */

/** Joins a line: the urgent stand before the others. */
export function line<T extends { urgent: boolean }>(waiting: T[], one: T): void {
  const first = one.urgent ? waiting.findIndex(({ urgent }) => !urgent) : -1
  waiting.splice(first === -1 ? waiting.length : first, 0, one)
}
