// Of an operation the answers are shown that it is called for; what can go wrong is folded: /problems says it in full.
const foldErrors = () => ({
  wrapComponents: {
    responses: (Original, { React }) => (props) => {
      const isError = (_, status) => !/^[123]/.test(status);
      const show = (responses) => React.createElement(Original, { ...props, responses });
      const errors = props.responses.filter(isError);
      if (errors.size === 0) return show(props.responses);
      return React.createElement(
        "div",
        null,
        show(props.responses.filterNot(isError)),
        React.createElement(
          "details",
          { style: { padding: "0 20px 20px" } },
          React.createElement("summary", { style: { cursor: "pointer" } }, `What can go wrong: ${errors.keySeq().join(", ")}`),
          show(errors),
        ),
      );
    },
  },
});

// The specification carries what there is to say; nothing is asked of any other host (validatorUrl).
window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null,
  tryItOutEnabled: false,
  plugins: [foldErrors],
});
