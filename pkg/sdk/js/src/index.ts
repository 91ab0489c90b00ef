export { Refused } from './jws.js';
export { webCryptoVerifier, type Point, type Verifier } from './verifier.js';
