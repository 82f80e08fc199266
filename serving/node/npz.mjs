// Reads what numpy.savez writes: a zip of stored (uncompressed) .npy files.
const KINDS = { "|u1": Uint8Array, "<i4": Int32Array, "<f4": Float32Array, "<f8": Float64Array };
const END_OF_DIRECTORY = 0x06054b50;
const DIRECTORY_ENTRY = 0x02014b50;

/** {name: {shape, values}} of a .npz file's content, as a Map. */
export function readNpz(content) {
  const arrays = new Map();
  for (const [name, bytes] of entries(content)) arrays.set(name.replace(/\.npy$/, ""), readNpy(bytes, name));
  return arrays;
}

/** Names and contents, by the directory at the end of the zip: the headers before the files may leave sizes out. */
function* entries(zip) {
  let end = zip.length - 22;
  while (end >= 0 && zip.readUInt32LE(end) !== END_OF_DIRECTORY) end--;
  if (end < 0) throw new Error("not a zip file");
  let place = zip.readUInt32LE(end + 16);
  for (let left = zip.readUInt16LE(end + 10); left > 0; left--) {
    if (zip.readUInt32LE(place) !== DIRECTORY_ENTRY) throw new Error("damaged zip file");
    const method = zip.readUInt16LE(place + 10);
    const size = zip.readUInt32LE(place + 24);
    const nameLength = zip.readUInt16LE(place + 28);
    const name = zip.toString("utf8", place + 46, place + 46 + nameLength);
    if (method !== 0) throw new Error(`${name}: compressed; numpy.savez does not compress, savez_compressed does`);
    const header = zip.readUInt32LE(place + 42);
    const start = header + 30 + zip.readUInt16LE(header + 26) + zip.readUInt16LE(header + 28);
    yield [name, zip.subarray(start, start + size)];
    place += 46 + nameLength + zip.readUInt16LE(place + 30) + zip.readUInt16LE(place + 32);
  }
}

/** {shape, values} of a .npy file's content. Its header is a Python dict with 'descr', 'fortran_order' and 'shape'. */
function readNpy(bytes, name) {
  if (bytes.toString("latin1", 0, 6) !== "\x93NUMPY") throw new Error(`${name}: not an array`);
  const [length, start] = bytes[6] === 1 ? [bytes.readUInt16LE(8), 10] : [bytes.readUInt32LE(8), 12];
  const header = bytes.toString("latin1", start, start + length);
  const kind = header.match(/'descr': '([^']+)'/)?.[1];
  const sizes = header.match(/'shape': \(([\d, ]*)\)/)?.[1].split(",").filter((size) => size.trim());
  if (!KINDS[kind] || !sizes || !header.includes("'fortran_order': False"))
    throw new Error(`${name}: cannot read ${header.trim()}`);
  const shape = sizes.map(Number);
  const copy = Uint8Array.from(bytes.subarray(start + length)); // numbers of 4 bytes must begin at a multiple of 4
  const values = new KINDS[kind](copy.buffer);
  if (values.length !== shape.reduce((product, size) => product * size, 1)) throw new Error(`${name}: damaged`);
  return { shape, values };
}
