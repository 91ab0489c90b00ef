import { integer, Malformed, text } from './bytes.js';
import { guard, parse, Refused, texts, type Authority } from './jws.js';

const maxRevoked = 64;

interface List {
  text: string;
  counter: number;
  revoked: string[];
  /** The issuing key that signed it; undefined: a root. */
  signer: string | undefined;
}

/**
 * What is known of revoked keys: the newest list of a root, which may name any key, and the newest of an issuing key, which may name edges' keys. It never goes
 * back, and needs no clock. The rules are in the package comment of pkg/token.
 */
export class Revocations {
  private root: List | undefined;
  private issuer: List | undefined;

  constructor(private readonly authority: Authority) {}

  /** Takes a list if it is genuine and newer than what is known. One that is not changes nothing, and is no reason to refuse anything. */
  async learn(listText: string): Promise<void> {
    let list: List;
    try {
      list = await this.verify(listText);
    } catch (err) {
      if (err instanceof Refused) return;
      throw err;
    }
    if (list.signer === undefined) {
      if (list.counter <= (this.root?.counter ?? 0)) return;
      this.root = list;
      if (this.issuer?.signer !== undefined && list.revoked.includes(this.issuer.signer)) this.issuer = undefined;
    } else if (!this.root?.revoked.includes(list.signer) && list.counter > (this.issuer?.counter ?? 0)) {
      this.issuer = list;
    }
  }

  /** Says whether nothing under these keys counts any more. */
  revoked(leaf: string, issuer: string): boolean {
    const root = this.root?.revoked ?? [];
    return root.includes(issuer) || root.includes(leaf) || (this.issuer?.revoked.includes(leaf) ?? false);
  }

  /** What to keep, and to show to learn after a restart. */
  lists(): string[] {
    return [this.root, this.issuer].flatMap((list) => (list ? [list.text] : []));
  }

  counters(): { root: number; issuer: number } {
    return { root: this.root?.counter ?? 0, issuer: this.issuer?.counter ?? 0 };
  }

  private async verify(listText: string): Promise<List> {
    const jws = guard('', () => parse(listText, 'latchkey-revocations+jwt'));
    const said = guard('', () => {
      const list = { issuer: text(jws.claims, 'iss'), at: integer(jws.claims, 'iat'), counter: integer(jws.claims, 'counter'), revoked: texts(jws.claims, 'revoked') };
      const unique = new Set(list.revoked).size === list.revoked.length && !list.revoked.includes('');
      if (list.counter < 1 || !('revoked' in jws.claims) || list.revoked.length > maxRevoked || !unique) throw new Malformed('list');
      return list;
    });
    const crt = guard('', () => texts(jws.header, 'crt'));
    const signer = 'crt' in jws.header ? await this.authority.issuer(crt.length === 1 ? crt[0]! : '') : undefined;
    if (!(await this.authority.holds(jws, signer && [signer.key]))) throw new Refused('signature');
    if (signer && (signer.issuer !== said.issuer || said.at < signer.notBefore || said.at >= signer.expiresAt)) throw new Refused('chain');
    return { text: listText, counter: said.counter, revoked: said.revoked, signer: signer?.thumbprint };
  }
}
