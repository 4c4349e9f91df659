/** A plain WebSocket client, for tests. */
import { once } from 'node:events'
import { WebSocket } from 'ws'

/** Frames as they come, until the other side closes; leaving the loop closes the socket. */
export async function* readFrames(url: string): AsyncGenerator<Buffer> {
  const socket = new WebSocket(url.replace(/^http/, 'ws'))
  const queue: Buffer[] = []
  socket.on('message', (frame: Buffer) => queue.push(frame))
  const closed = once(socket, 'close')
  try {
    for (;;) {
      const frame = queue.shift()
      if (frame !== undefined) yield frame
      else if (socket.readyState === socket.CLOSED) return
      else await Promise.race([once(socket, 'message'), closed])
    }
  } finally {
    socket.terminate()
  }
}

/** The first `count` frames; fewer when the other side closes before. */
export async function takeFrames(url: string, count: number): Promise<Buffer[]> {
  const frames: Buffer[] = []
  for await (const frame of readFrames(url)) if (frames.push(frame) === count) break
  return frames
}
