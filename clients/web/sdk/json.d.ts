/** A number that was written with a fraction or an exponent. */
export declare class JsonFloat {
  readonly value: number;
  constructor(value: number);
}

/**
 * Return the value of a JSON text. Objects have no prototype, the last of equal keys counts.
 * Throws `MsgpackError` for anything that is not JSON.
 */
export declare function parseJson(text: string): unknown;
