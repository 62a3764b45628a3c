package headrace;

import java.util.Arrays;
import java.util.HexFormat;
import org.apache.flink.table.functions.AggregateFunction;

/**
 * The distinct values of a tile, bounded: up to 64 hashes, beyond them the 512 registers of a HyperLogLog.
 *
 * <p>Takes and gives the text of `features/distinct.py`: `s` and the hashes in ascending order, 16 hex digits each; or `r`
 * and the registers, two each. The text of one value is `s` and its hash, so events and finished tiles merge alike.
 * What it ends up with depends on the set of values alone, not on their order, repetition or grouping.
 */
public final class DistinctSet extends AggregateFunction<String, DistinctSet.Held> {

    private static final long serialVersionUID = 1L;
    private static final int EXACT_MAX = 64;
    private static final int REGISTERS = 512;
    private static final int INDEX_BITS = 9;
    private static final int HASH_BYTES = 8;
    private static final int HASH_DIGITS = 16;
    private static final HexFormat HEX = HexFormat.of();

    /** The accumulator. Arrays are replaced, never changed: a checkpoint may be reading the old one. */
    public static final class Held {
        /** Hashes in ascending unsigned order, big-endian; or registers. */
        public byte[] content = new byte[0];

        /** Whether `content` are registers. */
        public boolean sketch = false;
    }

    @Override
    public Held createAccumulator() {
        return new Held();
    }

    /** Take the text of one value or of a tile; null adds nothing. */
    public void accumulate(Held held, String text) {
        if (text == null || text.isEmpty()) {
            return;
        }
        if (text.charAt(0) == 'r') {
            takeRegisters(held, HEX.parseHex(text, 1, text.length()));
            return;
        }
        for (int at = 1; at < text.length(); at += HASH_DIGITS) {
            add(held, Long.parseUnsignedLong(text, at, at + HASH_DIGITS, 16));
        }
    }

    /** The text of all that was taken; null where nothing was. */
    @Override
    public String getValue(Held held) {
        return held.content.length == 0 ? null : (held.sketch ? "r" : "s") + HEX.formatHex(held.content);
    }

    private static void add(Held held, long hash) {
        if (held.sketch) {
            raise(held, hash);
            return;
        }
        int count = held.content.length / HASH_BYTES;
        int place = 0;
        while (place < count && Long.compareUnsigned(hashAt(held.content, place), hash) < 0) {
            place++;
        }
        if (place < count && hashAt(held.content, place) == hash) {
            return;
        }
        if (count == EXACT_MAX) {
            toSketch(held);
            raise(held, hash);
            return;
        }
        byte[] grown = new byte[held.content.length + HASH_BYTES];
        int before = place * HASH_BYTES;
        System.arraycopy(held.content, 0, grown, 0, before);
        for (int i = 0; i < HASH_BYTES; i++) {
            grown[before + i] = (byte) (hash >>> (8 * (HASH_BYTES - 1 - i)));
        }
        System.arraycopy(held.content, before, grown, before + HASH_BYTES, held.content.length - before);
        held.content = grown;
    }

    private static void takeRegisters(Held held, byte[] registers) {
        toSketch(held);
        byte[] merged = held.content.clone();
        for (int i = 0; i < REGISTERS; i++) {
            merged[i] = (byte) Math.max(merged[i], registers[i]);
        }
        held.content = merged;
    }

    private static void toSketch(Held held) {
        if (held.sketch) {
            return;
        }
        byte[] hashes = held.content;
        held.content = new byte[REGISTERS];
        held.sketch = true;
        for (int i = 0; i < hashes.length / HASH_BYTES; i++) {
            raise(held, hashAt(hashes, i));
        }
    }

    /** The register of the first 9 bits holds the greatest place of the first 1 among the other 55. */
    private static void raise(Held held, long hash) {
        int register = (int) (hash >>> (Long.SIZE - INDEX_BITS));
        int rank = Math.min(Long.numberOfLeadingZeros(hash << INDEX_BITS), Long.SIZE - INDEX_BITS) + 1;
        if (held.content[register] < rank) {
            byte[] raised = held.content.clone();
            raised[register] = (byte) rank;
            held.content = raised;
        }
    }

    private static long hashAt(byte[] hashes, int place) {
        long hash = 0;
        for (int i = 0; i < HASH_BYTES; i++) {
            hash = (hash << 8) | (hashes[place * HASH_BYTES + i] & 0xff);
        }
        return hash;
    }
}
