/* The highlighter and its languages, for the type checker: what the page uses of them is no public interface. */

declare const value: any;
export default value;
