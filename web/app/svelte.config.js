// Nothing of Svelte's is set otherwise than it comes.
export default {};
