import headrace.DistinctSet;
import java.util.Scanner;

/** Each line of the standard input: texts, by spaces. Prints, for each line, the text of all of them taken in that order. */
public final class DistinctSetLines {
    public static void main(String[] arguments) {
        DistinctSet function = new DistinctSet();
        Scanner lines = new Scanner(System.in);
        while (lines.hasNextLine()) {
            DistinctSet.Held held = function.createAccumulator();
            for (String text : lines.nextLine().split(" ")) {
                function.accumulate(held, text);
            }
            System.out.println(function.getValue(held));
        }
    }
}
