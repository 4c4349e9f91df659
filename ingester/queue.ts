/** First in, first out. What has left is let go of at once: kept for a while, it would grow old in the heap. */
export interface Queue<T> {
  add(item: T): void
  first(): T | undefined
  drop(): void
  readonly length: number
}

export function createQueue<T>(): Queue<T> {
  let items: (T | undefined)[] = []
  let head = 0
  return {
    add: (item) => void items.push(item),
    first: () => items[head],
    drop() {
      items[head] = undefined
      head += 1
      if (head < 1_024 && head < items.length) return
      items = items.slice(head)
      head = 0
    },
    get length() {
      return items.length - head
    },
  }
}
