/** The smallest pictures that a decoder takes: grey JPEGs of one block, made from the format's tables. */

const marker = (code: number, body: readonly number[]): number[] => [
  0xff,
  code,
  (body.length + 2) >> 8,
  (body.length + 2) & 255,
  ...body,
]

/** A baseline JPEG of 8 × 8 pixels in one shade; another `shade` (0 to 7) gives other bytes. */
export function tinyJpeg(shade: number): Uint8Array {
  const jfif = [0x4a, 0x46, 0x49, 0x46, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0]
  // Each coefficient counts 8: the average of the block is then shade × 8 from the middle.
  const quantisation = [0, ...new Array<number>(64).fill(8)]
  const frame = [8, 0, 8, 0, 8, 1, 1, 0x11, 0]
  // One code of each table is enough: DC differences of 3 bits, and the end of the block.
  const codes = [1, ...new Array<number>(15).fill(0)]
  const dcTable = [0x00, ...codes, 3]
  const acTable = [0x10, ...codes, 0]
  const scan = [1, 1, 0, 0, 63, 0]
  // DC: code 0, then 3 bits of the difference (4 to 7, or -7 to -4); AC: code 0; ones to fill the byte.
  const bits = ((shade & 7) << 4) | 0b0111
  return Uint8Array.from([
    ...[0xff, 0xd8],
    ...marker(0xe0, jfif),
    ...marker(0xdb, quantisation),
    ...marker(0xc0, frame),
    ...marker(0xc4, dcTable),
    ...marker(0xc4, acTable),
    ...marker(0xda, scan),
    bits,
    ...[0xff, 0xd9],
  ])
}
