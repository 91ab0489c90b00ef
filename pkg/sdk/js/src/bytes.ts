// Base64url, UTF-8 and strict JSON, each refusing every second spelling of a value: two verifiers must not read one token differently. Nothing
// here needs Buffer, atob or TextDecoder, which React Native lacks.

/** Why a text was refused before anybody looked at a signature. It never quotes the text. */
export class Malformed extends Error {
  constructor(what: string) {
    super(`malformed: ${what}`);
    this.name = 'Malformed';
  }
}

const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
const values = new Map([...alphabet].map((letter, value) => [letter.charCodeAt(0), value]));

export function encodeBase64url(bytes: Uint8Array): string {
  let out = '';
  let bits = 0;
  let held = 0;
  for (const byte of bytes) {
    held = (held << 8) | byte;
    for (bits += 8; bits >= 6; bits -= 6) out += alphabet[(held >> (bits - 6)) & 63];
    held &= 63;
  }
  return bits > 0 ? out + alphabet[(held << (6 - bits)) & 63] : out;
}

/** Decodes canonical base64url without padding: no other character, no unused bit set. */
export function decodeBase64url(text: string): Uint8Array {
  const out = new Uint8Array((text.length * 3) >> 2);
  let at = 0;
  let bits = 0;
  let held = 0;
  for (let i = 0; i < text.length; i++) {
    const value = values.get(text.charCodeAt(i));
    if (value === undefined) throw new Malformed('base64url');
    held = ((held << 6) | value) & 0xfff;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      out[at++] = (held >> bits) & 0xff;
    }
  }
  if (text.length % 4 === 1 || (held & ((1 << bits) - 1)) !== 0) throw new Malformed('base64url');
  return out;
}

/** The bytes of a text that is known to be ASCII, such as a token. */
export function ascii(text: string): Uint8Array {
  const out = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
  return out;
}

/** Decodes UTF-8; overlong forms, surrogates and stray bytes are refused. */
export function decodeUTF8(bytes: Uint8Array): string {
  let out = '';
  for (let i = 0; i < bytes.length; ) {
    const first = bytes[i++]!;
    if (first < 0x80) {
      out += String.fromCharCode(first);
      continue;
    }
    const more = first < 0xc2 ? 0 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf5 ? 3 : 0;
    let point = first & (0x3f >> more);
    for (let n = 0; n < more; n++) {
      const next = bytes[i++];
      if (next === undefined || (next & 0xc0) !== 0x80) throw new Malformed('UTF-8');
      point = (point << 6) | (next & 0x3f);
    }
    const least = [Infinity, 0x80, 0x800, 0x10000][more]!;
    if (point < least || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) throw new Malformed('UTF-8');
    out += String.fromCodePoint(point);
  }
  return out;
}

/** How many objects and arrays may be open around one. */
const maxDepth = 8;

/** A JSON object as it came: nothing is known of its members yet. */
export type Json = Record<string, unknown>;

/**
 * Parses one JSON object and refuses what JSON.parse lets pass: a member twice, a number that is no safe integer or is written with fraction
 * or exponent, deep nesting.
 */
export function strictObject(bytes: Uint8Array): Json {
  const source = decodeUTF8(bytes);
  let value: unknown;
  try {
    value = JSON.parse(source);
  } catch {
    throw new Malformed('JSON');
  }
  if (!isObject(value)) throw new Malformed('not a JSON object');
  // From here on the text is known to be valid JSON, so a scan of its tokens is enough.
  const tokens = source.match(/"(?:[^"\\]|\\.)*"|[{}[\]:,]|[^\s{}[\]:,"]+/g) ?? [];
  const open: (Set<string> | null)[] = []; // the names of each open object, null for an array
  tokens.forEach((token, i) => {
    if (token === '{' || token === '[') {
      open.push(token === '{' ? new Set() : null);
      if (open.length > maxDepth + 1) throw new Malformed('nested too deep');
    } else if (token === '}' || token === ']') {
      open.pop();
    } else if (/^[-\d]/.test(token)) {
      if (!/^-?\d+$/.test(token) || !Number.isSafeInteger(Number(token))) throw new Malformed('a number is no safe integer');
    } else if (token[0] === '"' && tokens[i + 1] === ':') {
      const name = JSON.parse(token) as string;
      const names = open[open.length - 1]!;
      if (names.has(name)) throw new Malformed('a member appears twice');
      names.add(name);
    }
  });
  return value;
}

export function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

// Typed members. Null is not absent.

export function text(o: Json, name: string): string {
  const value = o[name];
  if (typeof value !== 'string' || value === '') throw new Malformed(`${name} is not a string`);
  return value;
}

export function optionalText(o: Json, name: string): string | undefined {
  return optional(o, name, (value): value is string => typeof value === 'string');
}

export function integer(o: Json, name: string): number {
  const value = optionalInteger(o, name);
  if (value === undefined) throw new Malformed(`${name} is missing`);
  return value;
}

export function optionalInteger(o: Json, name: string): number | undefined {
  return optional(o, name, (value): value is number => Number.isSafeInteger(value));
}

export function optionalBoolean(o: Json, name: string): boolean | undefined {
  return optional(o, name, (value): value is boolean => typeof value === 'boolean');
}

function optional<T>(o: Json, name: string, is: (value: unknown) => value is T): T | undefined {
  if (!Object.prototype.hasOwnProperty.call(o, name)) return undefined;
  const value = o[name];
  if (!is(value)) throw new Malformed(`${name} is of another type`);
  return value;
}
