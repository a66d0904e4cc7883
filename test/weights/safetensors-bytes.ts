/** A file of this header text and so many bytes of data. */
export function fileOf(header: string | Uint8Array, dataBytes: number, claimedLength?: bigint): Buffer {
  const json = Buffer.from(header as string);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(claimedLength ?? BigInt(json.length));
  return Buffer.concat([length, json, Buffer.alloc(dataBytes)]);
}
